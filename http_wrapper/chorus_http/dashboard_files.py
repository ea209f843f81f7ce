"""The files of the web page as they go over the wire: compressed once, under an address that names their content.

The address of every file starts with a digest of all of them, so that a browser may keep each for ever, never asks
again, and never mixes the files of two versions.
"""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

FOLDER = "dashboard"
PREFIX = "/ui"
PAGE = "index.html"
_TEXT = frozenset({"text/html", "text/css", "text/javascript", "image/svg+xml", "text/plain"})
_KINDS = {".js": "text/javascript", ".svg": "image/svg+xml", ".css": "text/css", ".html": "text/html", "": "text/plain"}
"""What a PC's own tables say of a suffix may be anything; a script of another type does not run."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file. `packed` is its gzip form, None where that is no smaller."""

    content_type: str
    body: bytes
    packed: bytes | None
    etag: str


@dataclass(frozen=True, slots=True)
class Dashboard:
    """All files by their path below the folder, and the page that names them."""

    build: str
    page: Asset
    assets: Mapping[str, Asset]


@cache
def dashboard() -> Dashboard:
    """Read them, once."""
    files = dict(_files(resources.files("chorus_http").joinpath(FOLDER), ""))
    page = files.pop(PAGE)
    digest = hashlib.sha256(page)
    for name, body in sorted(files.items()):
        digest.update(f"{name}\0{len(body)}\0".encode() + body)
    build = digest.hexdigest()[:16]
    page = page.replace(b"@assets", f"{PREFIX}/{build}".encode())
    return Dashboard(build, _asset(PAGE, page), {name: _asset(name, body) for name, body in files.items()})


def _files(folder: Traversable, path: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for entry in folder.iterdir():
        name = f"{path}{entry.name}"
        if entry.is_dir():
            found += _files(entry, f"{name}/")
        else:
            found.append((name, entry.read_bytes()))
    return found


def _asset(name: str, body: bytes) -> Asset:
    stem, dot, suffix = name.rpartition("/")[2].rpartition(".")
    kind = _KINDS.get(f".{suffix}" if dot and stem else "") or mimetypes.guess_type(name)[0]
    kind = kind or "application/octet-stream"
    packed = gzip.compress(body, 9, mtime=0) if kind in _TEXT else None
    return Asset(
        content_type=f"{kind}; charset=utf-8" if kind in _TEXT else kind,
        body=body,
        packed=packed if packed is not None and len(packed) < len(body) else None,
        etag=hashlib.sha256(body).hexdigest()[:32],
    )
