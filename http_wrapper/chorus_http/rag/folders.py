"""Folders of this PC whose documents are taken in: only those that the settings name, and what lies below them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chorus_http.rag.parsers.kinds import SUFFIXES
from chorus_proto.errors import BodyTooLarge, InvalidRequest, NotFound, UnreadableDocument

FILES_LIMIT = 20_000


@dataclass(frozen=True, slots=True)
class FolderFile:
    path: Path
    source: str
    """The whole path, with `/` on every system."""


def allowed_folder(wanted: str, allowed: Sequence[Path]) -> Path:
    """The folder, free of links. Raises InvalidRequest, NotFound."""
    try:
        folder = Path(wanted).expanduser().resolve()
        roots = [root.expanduser().resolve() for root in allowed]
    except (OSError, ValueError, RuntimeError):
        raise InvalidRequest("This is no path of a folder.", param="path") from None
    if not any(folder == root or root in folder.parents for root in roots):
        named = ", ".join(str(root) for root in roots) or "none"
        raise InvalidRequest(f"Only folders below those of the setting rag_folders are read: {named}.", param="path")
    if not folder.is_dir():
        raise NotFound("There is no such folder on the PC of this server.", param="path")
    return folder


def files_of(folder: Path) -> list[FolderFile]:
    """The documents below it, by name. Hidden files and links are left out. Raises InvalidRequest for too many."""
    found: list[FolderFile] = []
    for at, names, files in os.walk(folder, followlinks=False):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            path = Path(at, name)
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES or path.is_symlink():
                continue
            found.append(FolderFile(path, path.as_posix()))
            if len(found) > FILES_LIMIT:
                raise InvalidRequest(f"The folder holds more than {FILES_LIMIT} documents.", param="path")
    return found


def read_file(file: FolderFile, *, limit_bytes: int) -> bytes:
    """Raises BodyTooLarge, UnreadableDocument."""
    try:
        with file.path.open("rb") as opened:
            raw = opened.read(limit_bytes + 1)
    except OSError as error:
        raise UnreadableDocument(f"The file cannot be read: {error.strerror}.") from None
    if len(raw) > limit_bytes:
        raise BodyTooLarge(f"The file is larger than {limit_bytes} bytes.")
    return raw
