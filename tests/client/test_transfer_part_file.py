from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest

from chorus_client.transfer import part_file
from chorus_client.transfer.part_file import PartFile, PartNote
from chorus_proto.errors import InsufficientStorage, TransferFailed


def all_of(size: int, _note: PartNote) -> int:
    return size


def synced_only(size: int, note: PartNote) -> int:
    return min(size, note.synced_bytes)


def written(path: Path, *blocks: bytes, keep: bool = True) -> None:
    async def scenario() -> None:
        part = PartFile(path)
        with part.reserved():
            await part.open(keep_bytes=all_of)
            for block in blocks:
                await part.append(block)
            if keep:
                await part.keep()

    asyncio.run(scenario())


def test_a_part_is_gone_on_with_and_hashed_as_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.part"
    written(path, b"one ", b"two ")

    async def scenario() -> str:
        part = PartFile(path)
        with part.reserved():
            await part.open(keep_bytes=all_of)
            assert part.size_bytes == 8
            await part.append(b"three")
            await part.finish()
            return part.sha256

    assert asyncio.run(scenario()) == hashlib.sha256(b"one two three").hexdigest()
    assert path.read_bytes() == b"one two three"


def test_what_is_not_to_be_kept_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "x.part"
    written(path, b"0123456789")

    async def scenario() -> None:
        part = PartFile(path)
        with part.reserved():
            await part.open(keep_bytes=lambda _size, _note: 4)
            await part.append(b"x")
            await part.finish()
            assert part.sha256 == hashlib.sha256(b"0123x").hexdigest()

    asyncio.run(scenario())
    assert path.read_bytes() == b"0123x"


def test_only_synced_bytes_are_vouched_for_after_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_file, "SYNC_EVERY_BYTES", 8)
    path = tmp_path / "x.part"
    written(path, b"12345678", b"90", keep=False)  # the process dies without a word

    async def scenario() -> int:
        part = PartFile(path)
        with part.reserved():
            await part.open(keep_bytes=synced_only)
            return part.size_bytes

    assert asyncio.run(scenario()) == 8


def test_its_source_is_remembered_and_a_broken_note_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.part"

    async def scenario(*, describe: bool) -> PartNote:
        part = PartFile(path)
        with part.reserved():
            await part.open(keep_bytes=all_of)
            if describe:
                await part.describe(source="https://a/b", validator='"1"')
            await part.append(b"x")
            await part.keep()
            return part.note

    asyncio.run(scenario(describe=True))
    assert asyncio.run(scenario(describe=False)) == PartNote(source="https://a/b", validator='"1"', synced_bytes=2)
    (tmp_path / "x.part.json").write_bytes(b"\x00\xff")
    assert asyncio.run(scenario(describe=False)).source == ""


def test_two_agents_of_one_pc_do_not_write_one_part(tmp_path: Path) -> None:
    path = tmp_path / "x.part"
    first, second = PartFile(path), PartFile(path)
    with (
        first.reserved(),
        pytest.raises(TransferFailed, match="another agent of this PC is already fetching"),
        second.reserved(),
    ):
        pass
    with second.reserved():
        pass


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_is_told_from_one_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    failing = code

    def fails(_number: int) -> None:
        raise OSError(failing, os.strerror(failing))

    async def scenario() -> None:
        part = PartFile(tmp_path / "x.part")
        with part.reserved():
            await part.open(keep_bytes=all_of)
            await part.append(b"x")
            await part.finish()

    monkeypatch.setattr(part_file.os, "fsync", fails)
    with pytest.raises(InsufficientStorage, match="is full"):
        asyncio.run(scenario())
    failing = errno.EIO
    with pytest.raises(TransferFailed, match="cannot be written"):
        asyncio.run(scenario())


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    part = PartFile(tmp_path / "file" / "x.part")
    with pytest.raises(TransferFailed, match="cannot be written"), part.reserved():
        pass


def test_a_cancelled_write_has_ended_before_the_file_is_closed(tmp_path: Path) -> None:
    gate, began = threading.Event(), threading.Event()

    class Slow(PartFile):
        def _append(self, content: bytes | bytearray) -> None:
            began.set()
            gate.wait(5)
            super()._append(content)

    async def scenario() -> None:
        part = Slow(tmp_path / "x.part")
        with part.reserved():
            await part.open(keep_bytes=all_of)
            writing = asyncio.create_task(part.append(b"whole"))
            await asyncio.to_thread(began.wait, 5)
            writing.cancel()
            await asyncio.sleep(0)
            gate.set()
            with pytest.raises(asyncio.CancelledError):
                await writing
            assert part.size_bytes == 5
            await part.keep()

    asyncio.run(scenario())
    assert (tmp_path / "x.part").read_bytes() == b"whole"
