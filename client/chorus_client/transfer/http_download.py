"""A file from an HTTP server onto the disk: resumed by Range after a break or a restart, bounded in size and patience.

The server is not believed: it may send more than it announced, ignore a range, redirect to other schemes or into this
network, or stall.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import aiohttp

from chorus_client.transfer.checked_resolver import CheckedResolver, require_allowed_address
from chorus_client.transfer.pace import Pace
from chorus_client.transfer.part_file import PartFile, PartNote
from chorus_proto import __version__
from chorus_proto.backoff import delay_s
from chorus_proto.errors import ModelNotFound, TransferFailed

log = logging.getLogger(__name__)

_REDIRECTS = 5
_WRITE_BYTES = 1 << 20
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_GGUF = b"GGUF"


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadLimits:
    """`stall_s`: longest silence of a server. `tries`: breaks in a row without a byte in between.

    `hosts`: those that may lie in a network of our own, as HOST or HOST:PORT; all others must be on the internet.
    """

    connect_s: float = 10.0
    stall_s: float = 60.0
    most_bytes: int = 1 << 40
    tries: int = 5
    hosts: frozenset[str] = frozenset()


class Broken(Exception):
    """The connection broke or the server was busy: worth another try."""


def session(limits: DownloadLimits) -> aiohttp.ClientSession:
    """For downloads: with the proxies of the environment, without cookies, and never decompressing."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=CheckedResolver(limits.hosts)),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_s, sock_read=limits.stall_s),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"chorus/{__version__}", "Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=True,
    )


@asynccontextmanager
async def opened(
    http: aiohttp.ClientSession, url: str, headers: dict[str, str], limits: DownloadLimits
) -> AsyncGenerator[aiohttp.ClientResponse]:
    """GET, following a few redirects to http and https only, never from https back to http.

    Raises Broken, TransferFailed, AddressNotAllowed and ModelNotFound; the response is 200, 206 or 416.
    """
    for _ in range(_REDIRECTS + 1):
        require_allowed_address(url, limits.hosts)
        try:
            response = await http.get(url, headers=headers, allow_redirects=False)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            if isinstance(error, aiohttp.InvalidURL):
                raise TransferFailed(f"{_shown(url)} cannot be asked: the address is not valid") from None
            raise Broken(f"{_shown(url)} cannot be reached: {error or type(error).__name__}") from None
        try:
            if response.status in (301, 302, 303, 307, 308):
                url = _redirected(url, response.headers.get("Location", ""))
                continue
            _check_status(url, response)
            yield response
            return
        finally:
            response.close()
    raise TransferFailed(f"{_shown(url)}: more than {_REDIRECTS} redirects")


def _redirected(url: str, location: str) -> str:
    target = urljoin(url, location)
    before, after = urlsplit(url).scheme, urlsplit(target).scheme
    if after not in ("http", "https") or not urlsplit(target).hostname or (before == "https" and after == "http"):
        raise TransferFailed(f"{_shown(url)} redirects to {target[:100]!r}, where nothing is fetched from")
    return target


def _check_status(url: str, response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status in (200, 206, 416):
        return
    words = f"{_shown(url)} answered {status} {response.reason or ''}".rstrip()
    if status in (404, 410):
        raise ModelNotFound(f"{words}: no such model there", param="model")
    if status in (401, 403):
        raise TransferFailed(f"{words}: it wants a login, or there is no such model")
    if status == 429 or status >= 500:
        raise Broken(words)
    raise TransferFailed(words)


def _shown(url: str) -> str:
    """Without the query, which may hold a signature."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"[:200]


async def download(
    url: str,
    part: PartFile,
    pace: Pace,
    limits: DownloadLimits,
    *,
    sha256: str,
    total_bytes: int | None,
    room: Callable[[int], None],
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Fill the open `part` from `url` until it is whole. Digest and header are for the caller to judge.

    `sha256` and `total_bytes` are empty and None where nothing is known; `room(bytes)` raises when the disk lacks them.
    """
    tries = 0
    async with session(limits) as http:
        while True:
            before = part.size_bytes
            try:
                if await _one_try(http, url, part, pace, limits, sha256=sha256, total_bytes=total_bytes, room=room):
                    return
                continue
            except Broken as error:
                tries = 1 if part.size_bytes > before else tries + 1
                if tries >= limits.tries:
                    raise TransferFailed(f"{error}; given up after {tries} tries") from None
                log.info("%s; going on at byte %d", error, part.size_bytes)
            await pause(delay_s(tries - 1))


async def _one_try(
    http: aiohttp.ClientSession,
    url: str,
    part: PartFile,
    pace: Pace,
    limits: DownloadLimits,
    *,
    sha256: str,
    total_bytes: int | None,
    room: Callable[[int], None],
) -> bool:
    """True when the part is whole, False to ask again from the start. Raises Broken."""
    begun = part.size_bytes
    if total_bytes is not None and begun == total_bytes:
        return True
    headers: dict[str, str] = {}
    if begun and not sha256 and not part.note.validator:
        await part.restart()
        begun = 0
    if begun:
        headers["Range"] = f"bytes={begun}-"
        if not sha256:
            headers["If-Range"] = part.note.validator  # else halves of two files could be joined unseen
    async with opened(http, url, headers, limits) as response:
        if response.status == 416 or (response.status == 206) != bool(begun) or not _fits(response, begun):
            if not begun:
                raise TransferFailed(f"{_shown(url)} answered {response.status} to a plain request")
            if response.status != 200:
                await part.restart()
                return False
            await part.restart()
        announced = _announced(response, part.size_bytes)
        whole = announced if total_bytes is None else total_bytes
        if announced is not None and whole != announced:
            raise TransferFailed(f"{_shown(url)} has {announced} bytes, not {whole}")
        if whole is not None and whole > limits.most_bytes:
            raise TransferFailed(f"{_shown(url)} has {whole / 1e9:.1f} GB, over the limit of download_limit_bytes")
        if whole is not None:
            room(whole - part.size_bytes)
        if not part.size_bytes:
            await part.describe(source=_shown(url), validator=_validator(response))
        pace.total_bytes = whole
        await _read_body(response, url, part, pace, limits.most_bytes if whole is None else whole, room)
        if whole is not None and part.size_bytes < whole:
            raise Broken(f"{_shown(url)} broke off at byte {part.size_bytes} of {whole}")
    return True


async def _read_body(
    response: aiohttp.ClientResponse,
    url: str,
    part: PartFile,
    pace: Pace,
    most_bytes: int,
    room: Callable[[int], None],
) -> None:
    """Raises Broken when the connection does, TransferFailed when there is more than there may be."""
    pace.at(part.size_bytes)
    waiting = bytearray()
    try:
        async for block in response.content.iter_chunked(_WRITE_BYTES):
            waiting += block
            if part.size_bytes + len(waiting) > most_bytes:
                raise TransferFailed(f"{_shown(url)} sends more than the {most_bytes} bytes that it may")
            if not part.size_bytes and len(waiting) >= len(_GGUF) and not waiting.startswith(_GGUF):
                raise TransferFailed(f"{_shown(url)} is no GGUF file: it does not begin with {_GGUF.decode()}")
            if len(waiting) >= _WRITE_BYTES:
                full, waiting = waiting, bytearray()  # before the wait: a write is never cancelled halfway
                await part.append(full)
                pace.at(part.size_bytes)
                if pace.total_bytes is None:
                    room(0)  # nobody could say before how much it takes
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Broken(f"{_shown(url)} broke off: {error or type(error).__name__}") from None
    finally:
        if waiting and part.size_bytes + len(waiting) <= most_bytes and (part.size_bytes or waiting.startswith(_GGUF)):
            await part.append(waiting)
            pace.at(part.size_bytes)


def _fits(response: aiohttp.ClientResponse, begun: int) -> bool:
    """Whether a partial answer begins where we stopped."""
    if response.status != 206:
        return True
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return found is not None and int(found[1]) == begun


def _announced(response: aiohttp.ClientResponse, begun: int) -> int | None:
    """Size of the whole file as the server tells it."""
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status == 206 and found is not None and found[3] != "*":
        return int(found[3])
    return None if response.content_length is None else begun + response.content_length


def _validator(response: aiohttp.ClientResponse) -> str:
    """What proves later that the file is still the same; weak tags do not (RFC 9110, 13.1.5)."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def kept_bytes(source: str, sha256: str) -> Callable[[int, PartNote], int]:
    """How much of a part of an earlier try is good for going on: all of it where a digest will prove the whole."""

    def keep(size: int, note: PartNote) -> int:
        if sha256:
            return size
        same = note.source == _shown(source) and note.validator
        return min(size, note.synced_bytes) if same else 0

    return keep
