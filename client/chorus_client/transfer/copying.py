"""A file from one node to another, piece by verified piece: what the sender reads and what the receiver believes.

Nothing reaches the receiver's disk before the piece it belongs to had the digest that its sender named, and nothing
becomes a model before the whole had the digest that the coordinator named. A sender that lies consistently is found
out at the end: then all is thrown away and fetched from somebody else.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from chorus_client.transfer.pace import Pace
from chorus_client.transfer.part_file import PartFile
from chorus_proto.errors import ClusterError, ModelDamaged, TransferFailed
from chorus_proto.transfers import CHUNK_BYTES, PIECE_BYTES, Chunk

log = logging.getLogger(__name__)


class Incoming(Protocol):
    """The receiver's end of one transfer."""

    def chunks(self) -> AsyncGenerator[Chunk, None]:
        """As they come. Raises TransferFailed when the stream breaks."""
        ...

    async def verified(self, offset: int) -> None: ...

    async def rejected(self, offset: int, error: ClusterError) -> None: ...


class Readable(Protocol):
    """A file, or what reads like one. Methods raise OSError."""

    def seek(self, offset: int, /) -> int: ...

    def read(self, size_bytes: int, /) -> bytes: ...

    def close(self) -> None: ...


async def chunks_of(opened: Callable[[], Readable], offset: int, total_bytes: int) -> AsyncGenerator[Chunk, None]:
    """What `opened` reads, from `offset` on, which is a multiple of `PIECE_BYTES`. Raises ModelDamaged, TransferFailed.

    The next piece is read and hashed while the last one is on its way.
    """
    if offset % PIECE_BYTES or not 0 <= offset < total_bytes:
        raise TransferFailed(f"nothing can be sent from byte {offset} of {total_bytes}")
    try:
        source = await asyncio.to_thread(opened)
    except OSError as error:
        raise TransferFailed(f"the model's file cannot be read: {error.strerror or error}") from error
    reading = asyncio.ensure_future(asyncio.to_thread(_piece, source, offset, total_bytes))
    try:
        while offset < total_bytes:
            content, digest = await reading
            following = offset + len(content)
            if following < total_bytes:
                reading = asyncio.ensure_future(asyncio.to_thread(_piece, source, following, total_bytes))
            for start in range(0, len(content), CHUNK_BYTES):
                chunk = content[start : start + CHUNK_BYTES]
                is_last = start + len(chunk) == len(content)
                yield Chunk(offset=offset + start, content=chunk, piece_sha256=digest if is_last else b"")
            offset = following
    except OSError as error:
        raise TransferFailed(f"the model's file cannot be read: {error.strerror or error}") from error
    finally:
        await asyncio.wait((reading,))  # it must not read from a closed file
        if not reading.cancelled():
            reading.exception()
        source.close()


def _piece(source: Readable, offset: int, total_bytes: int) -> tuple[bytes, bytes]:
    """A piece and its SHA-256. Raises OSError, and ModelDamaged for a file that became shorter."""
    wanted = min(PIECE_BYTES, total_bytes - offset)
    source.seek(offset)
    content = source.read(wanted)
    if len(content) < wanted:
        raise ModelDamaged(f"the model's file ends at byte {offset + len(content)} instead of {total_bytes}")
    return content, hashlib.sha256(content).digest()


async def receive(incoming: Incoming, part: PartFile, pace: Pace, *, sha256: str, total_bytes: int) -> None:
    """Fill the open `part` until it is the whole file. Raises TransferFailed when the stream ends before.

    Chunks that do not go on where the last one ended, or begin where the last piece did, are of a sender that was
    given up, and are dropped.
    """
    pace.total_bytes = total_bytes
    pace.at(part.size_bytes)
    if part.size_bytes == total_bytes and await _is_whole(incoming, part, sha256):
        return
    async with aclosing(incoming.chunks()) as chunks:
        piece = bytearray()
        async for chunk in chunks:
            if chunk.offset == part.size_bytes:
                piece.clear()
            if chunk.offset != part.size_bytes + len(piece) or not chunk.content:
                continue
            piece += chunk.content
            if len(piece) > PIECE_BYTES or chunk.end > total_bytes:
                piece.clear()
                error = TransferFailed(f"more bytes came than the model's {total_bytes}, or than a piece has")
                await incoming.rejected(part.size_bytes, error)
                continue
            if not chunk.piece_sha256:
                continue
            if not await asyncio.to_thread(_is, piece, chunk.piece_sha256):
                piece.clear()
                await incoming.rejected(part.size_bytes, ModelDamaged(f"wrong bytes came at {part.size_bytes}"))
                continue
            await part.append(piece)
            piece = bytearray()
            pace.at(part.size_bytes)
            await incoming.verified(part.size_bytes)
            if part.size_bytes == total_bytes and await _is_whole(incoming, part, sha256):
                return
    raise TransferFailed(f"the transfer broke off at byte {part.size_bytes} of {total_bytes}")


async def _is_whole(incoming: Incoming, part: PartFile, sha256: str) -> bool:
    """Whether the file is the right one; a wrong one is emptied and must come from elsewhere."""
    found = part.sha256
    if found == sha256:
        return True
    log.error("a file came whole with sha256 %s instead of %s; it is thrown away", found[:12], sha256[:12])
    await part.restart()
    await incoming.rejected(0, ModelDamaged(f"the file has sha256 {found[:12]}... instead of {sha256[:12]}..."))
    return False


def _is(piece: bytearray, digest: bytes) -> bool:
    return hashlib.sha256(piece).digest() == digest


def kept_pieces(size_bytes: int, total_bytes: int) -> int:
    """How much of a part can be gone on with: whole pieces, or all of it when it is complete."""
    if size_bytes == total_bytes:
        return size_bytes
    return 0 if size_bytes > total_bytes else size_bytes - size_bytes % PIECE_BYTES
