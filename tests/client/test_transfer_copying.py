"""What a receiver believes: fuzzed with streams that drop, repeat, mix up, cut and spoil what a good sender sends."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from chorus_client.transfer import copying
from chorus_client.transfer.copying import chunks_of, kept_pieces, receive
from chorus_client.transfer.pace import Pace
from chorus_client.transfer.part_file import PartFile
from chorus_proto.errors import ClusterError, ModelDamaged, TransferFailed
from chorus_proto.transfers import CHUNK_BYTES, PIECE_BYTES, Chunk
from tests.support.clock import FakeClock

CHUNK, PIECE = 16, 64
"""Of the fuzzed streams: the sizes do not matter to the receiver, except that pieces are bounded."""


def chunks_from(content: bytes, offset: int, *, chunk: int = CHUNK, piece: int = PIECE) -> list[Chunk]:
    """What an honest sender sends from `offset` on."""
    found: list[Chunk] = []
    for start in range(offset, len(content), piece):
        whole = content[start : start + piece]
        pieces = [whole[at : at + chunk] for at in range(0, len(whole), chunk)]
        at = start
        for number, part in enumerate(pieces):
            digest = hashlib.sha256(whole).digest() if number == len(pieces) - 1 else b""
            found.append(Chunk(offset=at, content=part, piece_sha256=digest))
            at += len(part)
    return found


def spoilt(chunk: Chunk, chance: random.Random) -> list[Chunk]:
    """One chunk of a bad sender or a bad network."""
    at = chance.randrange(len(chunk.content))
    match chance.randrange(8):
        case 0:
            wrong = bytes([chunk.content[at] ^ (1 << chance.randrange(8))])
            return [replace(chunk, content=chunk.content[:at] + wrong + chunk.content[at + 1 :])]
        case 1:
            return []
        case 2:
            return [chunk, chunk]
        case 3:
            return [replace(chunk, content=chunk.content[:at])]
        case 4:
            return [replace(chunk, offset=max(0, chunk.offset + chance.choice((-CHUNK, -1, 1, CHUNK, 10**15))))]
        case 5:
            return [replace(chunk, piece_sha256=chance.randbytes(chance.choice((1, 32))))]
        case 6:
            return [replace(chunk, content=chunk.content + chance.randbytes(chance.choice((1, 3 * PIECE))))]
        case _:
            return [replace(chunk, piece_sha256=b"")]


@dataclass(slots=True)
class Hub:
    """The hub's end: sends on from where the receiver is, spoiling `rate` of all chunks until `good_after` chunks."""

    content: bytes
    chance: random.Random
    rate: float
    good_after: int
    lies: bool = False
    """Once, a wrong piece comes under its own right digest."""
    offset: int = 0
    again: bool = True
    rejections: list[tuple[int, ClusterError]] = field(default_factory=list[tuple[int, ClusterError]])

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        sent = 0
        while sent < self.good_after + 4 * len(self.content):
            self.again = False
            source = self.content
            if self.lies:
                self.lies = False
                source = bytes(len(source))
            for chunk in chunks_from(source, self.offset):
                bad = sent < self.good_after and self.chance.random() < self.rate
                for one in spoilt(chunk, self.chance) if bad else [chunk]:
                    sent += 1
                    yield one
                if self.again:
                    break
            # A sender that has nothing more to send is asked again from where the receiver stands.

    async def verified(self, offset: int) -> None:
        assert offset > self.offset
        self.offset = offset

    async def rejected(self, offset: int, error: ClusterError) -> None:
        self.rejections.append((offset, error))
        self.offset = offset
        self.again = True


def unheard(_done_bytes: int, _total_bytes: int | None, _bytes_per_s: float) -> None:
    pass


def received(folder: Path, hub: Hub) -> bytes:
    """Receive to the end; what lies on the disk then."""
    path = folder / "x.part"
    path.unlink(missing_ok=True)

    async def scenario() -> bytes:
        part = PartFile(path)
        with part.reserved():
            await part.open(keep_bytes=lambda size, _note: size)
            pace = Pace(FakeClock(), unheard)
            digest = hashlib.sha256(hub.content).hexdigest()
            await receive(hub, part, pace, sha256=digest, total_bytes=len(hub.content))
            await part.finish()
            return path.read_bytes()

    return asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(150))
def test_whatever_comes_only_the_right_file_is_accepted(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "PIECE_BYTES", PIECE)
    chance = random.Random(seed)
    content = chance.randbytes(chance.randrange(1, 12 * PIECE))
    hub = Hub(content, chance, rate=chance.choice((0.02, 0.2, 0.6)), good_after=200, lies=chance.random() < 0.3)
    assert received(tmp_path, hub) == content


def test_each_flipped_bit_is_refused_at_its_piece(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(3 * PIECE)

    class FlippedOnce(Hub):
        async def chunks(self) -> AsyncGenerator[Chunk, None]:
            wrong = bytearray(content)
            wrong[PIECE + 5] ^= 4
            for bad, good in zip(chunks_from(bytes(wrong), 0), chunks_from(content, 0), strict=True):
                yield replace(bad, piece_sha256=good.piece_sha256)
                if self.again and self.rejections:
                    break
            for one in chunks_from(content, self.offset):
                yield one

    hub = FlippedOnce(content, random.Random(0), rate=0, good_after=0)
    assert received(tmp_path, hub) == content
    ((offset, error),) = hub.rejections
    assert offset == PIECE
    assert isinstance(error, ModelDamaged)


def test_a_whole_file_with_the_wrong_digest_is_thrown_away_and_comes_anew(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(3 * PIECE)
    hub = Hub(content, random.Random(0), rate=0, good_after=0, lies=True)
    assert received(tmp_path, hub) == content
    ((offset, error),) = hub.rejections
    assert offset == 0
    assert "instead of" in error.message


def test_more_bytes_than_the_file_has_are_refused(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(2 * PIECE)

    class TooMuch(Hub):
        async def chunks(self) -> AsyncGenerator[Chunk, None]:
            for one in chunks_from(content + bytes(PIECE), 0, chunk=PIECE, piece=3 * PIECE):
                yield one
            for one in chunks_from(content, 0):
                yield one

    hub = TooMuch(content, random.Random(0), rate=0, good_after=0)
    assert received(tmp_path, hub) == content
    assert isinstance(hub.rejections[0][1], TransferFailed)


def test_a_stream_that_ends_early_is_said_to_have_broken_off(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(3 * PIECE)

    class Short(Hub):
        async def chunks(self) -> AsyncGenerator[Chunk, None]:
            for one in chunks_from(content, 0)[:-1]:
                yield one

    with pytest.raises(TransferFailed, match=f"broke off at byte {2 * PIECE} of {3 * PIECE}"):
        received(tmp_path, Short(content, random.Random(0), rate=0, good_after=0))
    assert (tmp_path / "x.part").read_bytes() == content[: 2 * PIECE]


def collect(path: Path, offset: int, total_bytes: int) -> list[Chunk]:
    async def scenario() -> list[Chunk]:
        async with aclosing(chunks_of(partial(path.open, "rb"), offset, total_bytes)) as chunks:
            return [chunk async for chunk in chunks]

    return asyncio.run(scenario())


@pytest.mark.parametrize("size", [1, CHUNK_BYTES, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES + CHUNK_BYTES + 7])
def test_a_sender_sends_pieces_with_their_digests(tmp_path: Path, size: int) -> None:
    path = tmp_path / "m"
    content = random.Random(size).randbytes(size)
    path.write_bytes(content)
    for offset in range(0, size, PIECE_BYTES):
        found = collect(path, offset, size)
        assert found == chunks_from(content, offset, chunk=CHUNK_BYTES, piece=PIECE_BYTES)


def test_a_sender_refuses_what_it_cannot_send(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(bytes(PIECE_BYTES + 10))
    for offset in (1, -PIECE_BYTES, 2 * PIECE_BYTES):
        with pytest.raises(TransferFailed, match="nothing can be sent"):
            collect(path, offset, PIECE_BYTES + 10)
    with pytest.raises(ModelDamaged, match=f"ends at byte {PIECE_BYTES + 10} instead of {PIECE_BYTES + 99}"):
        collect(path, 0, PIECE_BYTES + 99)
    with pytest.raises(TransferFailed, match="cannot be read"):
        collect(tmp_path / "gone", 0, 10)


def test_only_whole_pieces_of_a_part_are_gone_on_with() -> None:
    total = 3 * PIECE_BYTES + 5
    assert [kept_pieces(size, total) for size in (0, 5, PIECE_BYTES, PIECE_BYTES + 9, total, total + 1)] == [
        0,
        0,
        PIECE_BYTES,
        PIECE_BYTES,
        total,
        0,
    ]
