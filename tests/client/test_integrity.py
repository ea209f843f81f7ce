"""Damaged model files are refused before an engine sees them. Files here are real ones, damaged in one place."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import shutil
import sys
from pathlib import Path

import psutil
import pytest

from chorus_client.engines.base import LoadOptions, LoadProgress
from chorus_client.engines.llama_server import LlamaServerEngine
from chorus_client.integrity import FILE_NAME, Integrity
from chorus_client.inventory import Inventory
from chorus_proto.errors import LoadFailed, ModelDamaged, ModelNotFound
from chorus_proto.ids import ModelName
from tests.client.engine_contract import silent
from tests.support.clock import FakeClock
from tests.support.engines import TINY_PATH
from tests.support.gguf_writer import llama

HOUR_S = 3600.0
MINE = ModelName("mine")


def put(path: Path, content: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(llama().encoded() if content is None else content)
    return path


def flip(path: Path, at: int = -100) -> None:
    """One bit, as a bad disk does: size and time of change stay."""
    status = path.stat()
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0x10
    path.write_bytes(raw)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def checked(integrity: Integrity, path: Path, *, expected: str = "") -> list[str]:
    """What was told while the file was checked."""
    heard: list[str] = []

    def hear(progress: LoadProgress) -> None:
        assert progress.share is not None
        assert 0 <= progress.share <= 1
        heard.append(progress.detail)

    asyncio.run(integrity.check(path, expected=expected, report=hear))
    return heard


def digested(tmp_path: Path, clock: FakeClock, path: Path) -> Integrity:
    """An integrity that knows `path` since now."""
    integrity = Integrity(tmp_path / "state", clock=clock, verify_every_s=168 * HOUR_S)
    assert asyncio.run(integrity.digest(path)) == sha256_of(path)
    return integrity


# Digests ---------------------------------------------------------------------------------------------------------


def test_a_digest_is_computed_again_only_when_it_is_old(tmp_path: Path) -> None:
    path, clock = put(tmp_path / "a.gguf"), FakeClock()
    integrity = digested(tmp_path, clock, path)
    assert checked(integrity, path) == []
    clock.advance(167 * HOUR_S)
    assert checked(integrity, path) == []
    clock.advance(2 * HOUR_S)
    assert set(checked(integrity, path)) == {"checking sha256 of a.gguf"}
    assert checked(integrity, path) == []


def test_an_interval_of_zero_checks_each_time(tmp_path: Path) -> None:
    path = put(tmp_path / "a.gguf")
    digested(tmp_path, FakeClock(), path)
    always = Integrity(tmp_path / "state", clock=FakeClock(), verify_every_s=0)
    assert checked(always, path)
    assert checked(always, path)


def test_a_clock_that_was_set_back_makes_nothing_younger(tmp_path: Path) -> None:
    path = put(tmp_path / "a.gguf")
    digested(tmp_path, FakeClock(unix_s=2_000_000_000.0), path)
    assert checked(Integrity(tmp_path / "state", clock=FakeClock(unix_s=1_000_000_000.0)), path)


def test_a_flipped_bit_is_found_although_size_and_time_are_the_same(tmp_path: Path) -> None:
    path, clock = put(tmp_path / "a.gguf"), FakeClock()
    right = sha256_of(path)
    integrity = digested(tmp_path, clock, path)
    flip(path)
    wrong = sha256_of(path)
    clock.advance(200 * HOUR_S)
    with pytest.raises(ModelDamaged) as caught:
        checked(integrity, path)
    assert f"file damaged (sha256 {wrong[:12]}... instead of {right[:12]}...)" in caught.value.message
    assert str(path) in caught.value.message


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: a time of change that nobody can set")
def test_somebody_who_set_the_time_back_is_noticed_at_once(tmp_path: Path) -> None:
    path = put(tmp_path / "a.gguf")
    integrity = digested(tmp_path, FakeClock(), path)
    flip(path)
    with pytest.raises(ModelDamaged):
        checked(integrity, path)


def test_a_damaged_file_stays_refused_over_a_restart_without_being_read_again(tmp_path: Path) -> None:
    path, clock = put(tmp_path / "a.gguf"), FakeClock()
    integrity = digested(tmp_path, clock, path)
    flip(path)
    clock.advance(200 * HOUR_S)
    with pytest.raises(ModelDamaged):
        checked(integrity, path)
    again = Integrity(tmp_path / "state", clock=clock)
    assert again.damage_of(path, path.stat()).startswith("file damaged (sha256 ")
    assert again.digest_of(path, path.stat()) == ""
    heard: list[LoadProgress] = []
    with pytest.raises(ModelDamaged):
        asyncio.run(again.check(path, report=heard.append))
    with pytest.raises(ModelDamaged):
        asyncio.run(again.digest(path))
    assert heard == []


def test_a_replaced_file_is_a_new_file_with_a_new_digest(tmp_path: Path) -> None:
    path, clock = put(tmp_path / "a.gguf"), FakeClock()
    integrity = digested(tmp_path, clock, path)
    flip(path)
    clock.advance(200 * HOUR_S)
    with pytest.raises(ModelDamaged):
        checked(integrity, path)
    put(path, llama(vocabulary=128).encoded())
    assert integrity.damage_of(path, path.stat()) == ""
    assert checked(integrity, path) == []
    assert asyncio.run(integrity.digest(path)) == sha256_of(path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: a time of change that nobody can set")
def test_a_file_restored_with_its_old_times_is_good_again(tmp_path: Path) -> None:
    path, clock = put(tmp_path / "a.gguf"), FakeClock()
    integrity = digested(tmp_path, clock, path)
    flip(path)
    with pytest.raises(ModelDamaged):
        checked(integrity, path)
    flip(path)
    assert checked(integrity, path)
    assert integrity.digest_of(path, path.stat()) == sha256_of(path)


def test_a_file_whose_digest_is_known_from_elsewhere_may_never_have_another(tmp_path: Path) -> None:
    path, clock = put(tmp_path / "a.gguf"), FakeClock()
    right = sha256_of(path)
    integrity = Integrity(tmp_path / "state", clock=clock)
    assert checked(integrity, path, expected=right)
    assert checked(integrity, path, expected=right) == []
    put(path, llama(vocabulary=128).encoded())
    with pytest.raises(ModelDamaged, match=f"instead of {right[:12]}"):
        checked(integrity, path, expected=right)
    with pytest.raises(ModelDamaged):
        asyncio.run(integrity.digest(path, expected=right))


def test_progress_of_a_long_check_is_told_in_steps(tmp_path: Path) -> None:
    big = llama().encoded() + bytes(70 << 20)
    path = put(tmp_path / "a.gguf", big)
    shares: list[float | None] = []
    integrity = Integrity(tmp_path / "state", verify_every_s=0)
    told = integrity.check(path, expected=sha256_of(path), report=lambda progress: shares.append(progress.share))
    asyncio.run(told)
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    assert shares == sorted(shares, key=lambda share: share or 0.0)
    assert len(shares) >= 4


def test_a_check_that_is_given_up_ends_and_leaves_no_digest(tmp_path: Path) -> None:
    path = put(tmp_path / "a.gguf", llama().encoded() + bytes(80 << 20))
    integrity = Integrity(tmp_path / "state")

    async def scenario() -> None:
        began = asyncio.Event()
        check = asyncio.create_task(integrity.check(path, expected="0" * 64, report=lambda _: began.set()))
        await began.wait()
        check.cancel()
        with pytest.raises(asyncio.CancelledError):
            await check

    asyncio.run(scenario())
    assert integrity.digest_of(path, path.stat()) == ""
    assert not (tmp_path / "state" / FILE_NAME).exists()


def test_a_file_that_is_written_to_while_it_is_checked_is_not_called_damaged(tmp_path: Path) -> None:
    path = put(tmp_path / "a.gguf", llama().encoded() + bytes(40 << 20))
    integrity = Integrity(tmp_path / "state")

    def grow(_progress: LoadProgress) -> None:
        with path.open("ab") as file:
            file.write(bytes(1000))

    with pytest.raises(LoadFailed, match="written to while it was checked"):
        asyncio.run(integrity.check(path, expected="0" * 64, report=grow))
    assert integrity.damage_of(path, path.stat()) == ""


def test_digests_that_cannot_be_kept_or_read_are_computed_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = put(tmp_path / "a.gguf")
    put(tmp_path / "state" / FILE_NAME, b'{"old form": "x"}')
    integrity = Integrity(tmp_path / "state")
    assert "computed anew" in caplog.text
    assert asyncio.run(integrity.digest(path)) == sha256_of(path)
    put(tmp_path / "no-folder", b"")
    assert asyncio.run(Integrity(tmp_path / "no-folder" / "x").digest(path)) == sha256_of(path)


def test_what_is_remembered_is_for_the_owner_only(tmp_path: Path) -> None:
    digested(tmp_path, FakeClock(), put(tmp_path / "a.gguf"))
    kept = tmp_path / "state" / FILE_NAME
    assert list(json.loads(kept.read_text())["files"]) == [str(tmp_path / "a.gguf")]
    assert sys.platform == "win32" or kept.stat().st_mode & 0o077 == 0


# Headers ---------------------------------------------------------------------------------------------------------


def test_a_cut_file_is_refused_without_being_read_through(tmp_path: Path) -> None:
    path = put(tmp_path / "a.gguf")
    integrity = digested(tmp_path, FakeClock(), path)
    put(path, llama().encoded()[:-1])
    with pytest.raises(ModelDamaged, match=r"file damaged: .*cut short"):
        checked(integrity, path)


def test_every_flipped_byte_of_the_header_is_refused(tmp_path: Path) -> None:
    """By the header's own rules or by the digest: nothing gets through."""
    path = put(tmp_path / "a.gguf")
    header_bytes = len(llama().header()[0])
    integrity = Integrity(tmp_path / "state", verify_every_s=0)
    asyncio.run(integrity.digest(path))
    for at in range(0, header_bytes, 7):
        flip(path, at)
        with pytest.raises(ModelDamaged):
            checked(integrity, path)
        flip(path, at)
    assert checked(integrity, path)


def test_the_files_of_a_safetensors_model_are_checked_alike(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
    path = put(tmp_path / "model.safetensors", len(header).to_bytes(8, "little") + header + bytes(4))
    clock = FakeClock()
    integrity = digested(tmp_path, clock, path)
    flip(path, -1)
    clock.advance(200 * HOUR_S)
    with pytest.raises(ModelDamaged, match="sha256"):
        checked(integrity, path)
    put(path, path.read_bytes()[:-1])
    with pytest.raises(ModelDamaged, match="file damaged: "):
        checked(integrity, path)


@pytest.mark.parametrize("name", ["a.bin", "a.pt", "a.pkl", "a.ckpt", "a.pth", "a", "a.gguf.part"])
def test_formats_that_can_run_code_are_no_models(tmp_path: Path, name: str) -> None:
    with pytest.raises(LoadFailed, match=r"models are \.gguf and \.safetensors files"):
        checked(Integrity(tmp_path / "state"), put(tmp_path / name))


def test_a_missing_file_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="cannot be read"):
        checked(Integrity(tmp_path / "state"), tmp_path / "none.gguf")


# In the inventory, before an engine ------------------------------------------------------------------------------


def inventory_of(tmp_path: Path, clock: FakeClock) -> Inventory:
    integrity = Integrity(tmp_path / "state", clock=clock, verify_every_s=168 * HOUR_S)
    return Inventory([tmp_path / "models"], tmp_path / "state", integrity=integrity)


def names(inventory: Inventory) -> list[str]:
    return [file.name for file in inventory.files()]


def test_no_engine_starts_on_a_damaged_file_and_it_is_offered_no_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "models" / "mine.gguf"
    path.parent.mkdir()
    shutil.copyfile(TINY_PATH, path)
    clock = FakeClock()
    inventory = inventory_of(tmp_path, clock)
    heard: list[str] = []

    async def scenario() -> None:
        await inventory.refresh()
        await inventory.digest()
        engine = LlamaServerEngine(inventory, threads=1, checked=inventory.checked)
        file = next(file for file in await engine.inventory() if file.name == MINE)
        options = LoadOptions(slots=1, context_tokens=256)
        loaded = await engine.load(file, options, silent)
        await loaded.unload()
        flip(path)
        clock.advance(200 * HOUR_S)
        before = psutil.Process().children(recursive=True)
        with pytest.raises(ModelDamaged, match=r"file damaged \(sha256 "):
            await engine.load(file, options, lambda progress: heard.append(progress.detail))
        assert psutil.Process().children(recursive=True) == before
        assert MINE not in names(inventory)
        with pytest.raises(ModelDamaged):
            await engine.load(file, options, silent)

    asyncio.run(scenario())
    assert set(heard) == {"checking sha256 of mine.gguf"}

    with caplog.at_level(logging.WARNING):
        again = inventory_of(tmp_path, clock)
        asyncio.run(again.refresh())
    assert MINE not in names(again)
    assert "file damaged" in caplog.text
    with pytest.raises(ModelDamaged, match="file damaged"):
        again.path_of(MINE)

    shutil.copyfile(TINY_PATH, path)
    asyncio.run(again.refresh())
    assert asyncio.run(again.checked(MINE, silent)) == path


def test_a_bundled_file_that_is_not_the_catalogues_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    package.mkdir()
    copy = package / TINY_PATH.name
    shutil.copyfile(TINY_PATH, copy)
    monkeypatch.setattr("chorus_client.inventory.bundled_folder", lambda: package)
    inventory = inventory_of(tmp_path, FakeClock())
    asyncio.run(inventory.refresh())
    assert asyncio.run(inventory.checked(ModelName("demo-tiny"), silent)) == copy

    flip(copy)
    os.utime(copy, ns=(1, 1))
    asyncio.run(inventory.refresh())
    assert names(inventory) == ["demo-tiny"]
    asyncio.run(inventory.digest())
    assert names(inventory) == []
    with pytest.raises(ModelDamaged, match="instead of 37c98e221d1a"):
        asyncio.run(inventory.checked(ModelName("demo-tiny"), silent))


def test_a_file_replaced_since_the_look_is_taken_for_what_it_is_now(tmp_path: Path) -> None:
    path = put(tmp_path / "models" / "mine.gguf")
    inventory = inventory_of(tmp_path, FakeClock())
    asyncio.run(inventory.refresh())
    asyncio.run(inventory.digest())
    put(path, llama(vocabulary=128).encoded())
    assert asyncio.run(inventory.checked(MINE, silent)) == path
    (file,) = [file for file in inventory.files() if file.name == MINE]
    assert (file.file_bytes, file.digest) == (path.stat().st_size, "")
    asyncio.run(inventory.digest())
    (file,) = [file for file in inventory.files() if file.name == MINE]
    assert file.digest == sha256_of(path)


def test_a_file_replaced_by_something_else_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "models" / "mine.gguf")
    inventory = inventory_of(tmp_path, FakeClock())
    asyncio.run(inventory.refresh())
    put(path, llama({"general.architecture": "clip"}).encoded())
    with pytest.raises(LoadFailed, match="no language model"):
        asyncio.run(inventory.checked(MINE, silent))
    path.unlink()
    with pytest.raises(ModelNotFound, match="was deleted from this PC"):
        asyncio.run(inventory.checked(MINE, silent))
    assert MINE not in [file.name for file in inventory.files()]
    with pytest.raises(ModelNotFound):
        asyncio.run(inventory.checked(ModelName("never-there"), silent))


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_file_that_became_a_link_to_somewhere_else_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "models" / "mine.gguf")
    inventory = inventory_of(tmp_path, FakeClock())
    asyncio.run(inventory.refresh())
    outside = put(tmp_path / "elsewhere" / "secret.gguf")
    path.unlink()
    path.symlink_to(outside)
    with pytest.raises(LoadFailed, match="leads out of the models folder"):
        asyncio.run(inventory.checked(MINE, silent))
