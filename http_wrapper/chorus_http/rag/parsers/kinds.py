"""What a file is, by its first bytes; its name decides only between kinds of plain text."""

from __future__ import annotations

from pathlib import PurePosixPath

from chorus_http.rag.documents import Kind
from chorus_http.rag.parsers.outcome import Refusal, Refused

_BY_SUFFIX = {
    **dict.fromkeys((".md", ".markdown", ".mdown", ".mkd"), Kind.MARKDOWN),
    **dict.fromkeys((".html", ".htm", ".xhtml"), Kind.HTML),
    **dict.fromkeys((".csv", ".tsv"), Kind.CSV),
    **dict.fromkeys((".txt", ".text", ".log", ".rst", ".adoc", ".org"), Kind.TEXT),
    ".pdf": Kind.PDF,
    ".docx": Kind.DOCX,
}
_CODE = (
    *(".py", ".pyi", ".js", ".mjs", ".ts", ".tsx", ".jsx", ".java", ".kt", ".scala", ".c", ".h", ".cc", ".cpp", ".hpp"),
    *(".cs", ".go", ".rs", ".rb", ".php", ".swift", ".m", ".lua", ".r", ".jl", ".pl", ".sh", ".bash", ".zsh", ".fish"),
    *(".ps1", ".bat", ".cmd", ".sql", ".json", ".jsonl", ".toml", ".yaml", ".yml", ".ini", ".cfg", ".conf", ".xml"),
    *(".css", ".scss", ".proto", ".dockerfile", ".tf", ".vue", ".svelte", ".dart", ".ex", ".exs", ".hs", ".tex"),
)
_BY_SUFFIX.update(dict.fromkeys(_CODE, Kind.CODE))
SUFFIXES = frozenset(_BY_SUFFIX)
"""What a folder is searched for."""

_NOT_TEXT_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".ico", ".svg", ".svgz", ".tif", ".tiff", ".heic")
)
_RTF = b"{\\rtf"
_BINARY = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a RIFF media file"),
    (b"OggS", "an Ogg media file"),
    (b"ID3", "an MP3 file"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"\xca\xfe\xba\xbe", "a program"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (_RTF, "an RTF document"),
    (b"SQLite format 3", "a database"),
    (b"GGUF", "a model"),
)
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_TAKEN = "send txt, md, html, pdf, docx, csv or source code"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_HEAD = 8192


def kind_of(name: str, raw: bytes, *, media_type: str = "") -> Kind:
    """The kind of a file; `media_type` is what its sender calls it. Raises Refused."""
    head = raw[:_HEAD]
    suffix = PurePosixPath(name.replace("\\", "/").lower()).suffix
    if not raw:
        raise Refused(Refusal.UNREADABLE, "The file is empty.")
    if b"%PDF-" in head[:1024]:
        return _agreed(Kind.PDF, media_type)
    if head.startswith(_ZIP):
        return _agreed(Kind.DOCX, media_type)
    if head.startswith(_OLE):
        raise _compound(suffix, raw)
    for magic, what in _BINARY:
        if head.startswith(magic) and (magic == _RTF or not _reads_as_text(head)):
            raise Refused(Refusal.UNSUPPORTED, f"The file is {what}; {_TAKEN}.")
    if not _reads_as_text(head):
        raise Refused(Refusal.UNSUPPORTED, f"The file is neither text nor a kind of document known here; {_TAKEN}.")
    if suffix in (".pdf", ".docx"):
        raise Refused(Refusal.UNREADABLE, f"The file is called '{suffix}' and is none: it is damaged or misnamed.")
    if suffix in _NOT_TEXT_SUFFIXES:
        raise Refused(Refusal.UNSUPPORTED, f"Images are not read; {_TAKEN}.")
    found = _BY_SUFFIX.get(suffix)
    if found is None:
        start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
        found = Kind.HTML if start.startswith((b"<!doctype html", b"<html")) else Kind.TEXT
    return _agreed(found, media_type)


def _agreed(kind: Kind, media_type: str) -> Kind:
    """A file sent as a picture, sound or film is not read as anything else."""
    if media_type.lower().startswith(("image/", "audio/", "video/", "font/")):
        raise Refused(Refusal.UNSUPPORTED, f"The file was sent as {media_type[:64]}, which it is not; {_TAKEN}.")
    return kind


def _compound(suffix: str, raw: bytes) -> Refused:
    """Microsoft's older container: of .doc files, and of .docx files under a password ([MS-OFFCRYPTO] 1.3.2)."""
    if suffix == ".docx" or "EncryptedPackage".encode("utf-16-le") in raw:
        return Refused(Refusal.UNREADABLE, "The document is protected by a password: save it without one.")
    return Refused(Refusal.UNSUPPORTED, f"Office documents of before 2007 are not read; {_TAKEN}.")


def _reads_as_text(head: bytes) -> bool:
    if head.startswith(_UTF16):
        return True
    if b"\0" in head:
        # UTF-16 without its mark: every other byte of western text is zero.
        evens, odds = head[::2].count(0), head[1::2].count(0)
        return max(evens, odds) > len(head) * 0.3 and min(evens, odds) < len(head) * 0.02
    controls = sum(head.count(byte) for byte in range(32) if byte not in b"\t\n\r\f\x1b\x08")
    return controls <= len(head) * 0.01
