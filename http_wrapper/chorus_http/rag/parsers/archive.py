"""Zip archives that may be hostile: looked over before a byte is inflated, counted while it is."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import IO

from chorus_http.rag.parsers.outcome import ParseLimits, Refusal, Refused

_END = struct.Struct("<4s4H2LH")  # "end of central directory", APPNOTE.TXT 4.3.16
_DIRECTORY_BYTES_PER_ENTRY = 1024
_SMALL_BYTES = 2**20
"""A small file may compress as well as it likes."""
_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ")


def opened(raw: bytes, limits: ParseLimits) -> zipfile.ZipFile:
    """The archive, once its directory promises no harm. Raises Refused."""
    _check_directory_size(raw, limits)
    try:
        archive = zipfile.ZipFile(io.BytesIO(raw))
    except (zipfile.BadZipFile, struct.error, ValueError, OSError, NotImplementedError) as error:
        raise Refused(Refusal.UNREADABLE, f"The file is a damaged zip archive: {error}.") from None
    entries = archive.infolist()
    _check_sizes(entries, len(raw), limits)
    for entry in entries:
        _check_name(entry)
    if any(entry.flag_bits & 1 for entry in entries):
        raise Refused(Refusal.UNREADABLE, "The archive is protected by a password: save it without one.")
    _check_nesting(archive, entries)
    return archive


class Counted(io.RawIOBase):
    """One file of an archive, inflated as it is read. Raises Refused past its limit, whatever was promised."""

    def __init__(self, archive: zipfile.ZipFile, name: str, limits: ParseLimits) -> None:
        super().__init__()
        self._file: IO[bytes] = archive.open(name)
        packed = archive.getinfo(name).compress_size
        self._room = min(limits.expanded_bytes, max(_SMALL_BYTES, packed * limits.expanded_ratio))

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        try:
            piece = self._file.read(min(size, 65_536) if size > 0 else 65_536)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise Refused(Refusal.UNREADABLE, f"The file is a damaged zip archive: {error}.") from None
        self._room -= len(piece)
        if self._room < 0:
            raise _too_large()
        return piece


def _check_directory_size(raw: bytes, limits: ParseLimits) -> None:
    """Before `zipfile` makes an object of every entry: 100,000 of them fit into a few megabytes."""
    at = raw.rfind(b"PK\x05\x06", max(0, len(raw) - 65_557))
    if at < 0 or at + _END.size > len(raw):
        raise Refused(Refusal.UNREADABLE, "The file is a zip archive without its end: it is truncated.")
    end = _END.unpack_from(raw, at)
    entries, directory_bytes = int(end[4]), int(end[5])
    if entries > limits.archive_entries or directory_bytes > limits.archive_entries * _DIRECTORY_BYTES_PER_ENTRY:
        raise Refused(Refusal.TOO_LARGE, f"The archive holds more than {limits.archive_entries} files.")


def _check_sizes(entries: list[zipfile.ZipInfo], packed_bytes: int, limits: ParseLimits) -> None:
    expanded = sum(entry.file_size for entry in entries)
    if len(entries) > limits.archive_entries:
        raise Refused(Refusal.TOO_LARGE, f"The archive holds more than {limits.archive_entries} files.")
    if expanded > limits.expanded_bytes:
        raise _too_large()
    if expanded > _SMALL_BYTES and expanded > packed_bytes * limits.expanded_ratio:
        raise _too_large()


def _check_name(entry: zipfile.ZipInfo) -> None:
    """Nothing is ever unpacked to a disk; an archive that tries to climb out of its folder is refused all the same."""
    name = entry.orig_filename
    unsafe = "\\" in name or "\0" in name or ":" in name or name.startswith("/") or ".." in PurePosixPath(name).parts
    if unsafe or stat.S_ISLNK(entry.external_attr >> 16):
        raise Refused(Refusal.INVALID, "The archive holds a name or link that leads out of it.")


def _check_nesting(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> None:
    """Tables that Word embeds are archives too, and never opened; any other archive within one is a trap."""
    for entry in entries:
        if entry.filename.startswith("word/embeddings/") or entry.is_dir():
            continue
        try:
            with archive.open(entry) as file:
                start = file.read(8)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise Refused(Refusal.UNREADABLE, f"The file is a damaged zip archive: {error}.") from None
        if start.startswith(_ARCHIVES):
            raise Refused(Refusal.TOO_LARGE, "The archive holds another archive; these are not opened.")


def _too_large() -> Refused:
    return Refused(Refusal.TOO_LARGE, "The file expands to more than the limit.")
