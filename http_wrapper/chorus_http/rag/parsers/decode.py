"""Bytes of a text file as text with `\\n` line ends."""

from __future__ import annotations

import codecs

from charset_normalizer import from_bytes

from chorus_http.rag.parsers.outcome import Refusal, Refused

LEGACY = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "koi8_r", "iso8859_15", "mac_roman"),
    *("shift_jis", "euc_jp", "gb18030", "big5", "euc_kr"),
)
"""What is tried, by how the text then looks, when a file is not Unicode."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE_BYTES = 65_536


def decoded(raw: bytes) -> tuple[str, tuple[str, ...]]:
    """The text, and a notice when its encoding had to be guessed. Raises Refused when it is no text."""
    notices: tuple[str, ...] = ()
    text = _unicode(raw)
    if text is None:
        found = from_bytes(raw[:_SAMPLE_BYTES], cp_isolation=list(LEGACY)).best()
        encoding = found.encoding if found is not None else "cp1252"
        text = raw.decode(encoding, "replace")
        if text.count("\ufffd") > len(text) * 0.05:
            raise Refused(Refusal.UNREADABLE, "The file's text encoding is not known; save it as UTF-8.")
        notices = (f"read as {encoding}: the file is not UTF-8",)
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    if not text.strip():
        raise Refused(Refusal.UNREADABLE, "The file holds no text.")
    return text, notices


def _unicode(raw: bytes) -> str | None:
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return raw[len(mark) :].decode(encoding, "replace")
    if b"\0" in raw[:8192]:
        evens, odds = raw[:8192:2].count(0), raw[1:8192:2].count(0)
        return raw.decode("utf-16-be" if evens > odds else "utf-16-le", "replace")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
