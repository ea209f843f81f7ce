from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from chorus_client.transfer.model_store import INDEX_FILE, PARTS_KEPT_S, ModelStore, free_bytes
from chorus_client.transfer.part_file import PartFile
from chorus_proto.errors import InsufficientStorage, LoadFailed, TransferFailed
from chorus_proto.ids import ModelName
from tests.support.model_files import model_bytes, sha256_of

MODEL = model_bytes(50_000)
SHA256 = sha256_of(MODEL)


def arrived(store: ModelStore, content: bytes = MODEL) -> PartFile:
    """A part that has come whole."""
    part = store.part(sha256_of(content))

    async def scenario() -> None:
        with part.reserved():
            await part.open(keep_bytes=lambda _size, _note: 0)
            await part.append(content)
            await part.finish()

    asyncio.run(scenario())
    return part


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("llama3.2:3b", "llama3.2-3b"),
        ("hf.co/org/repo:q4", "hf.co-org-repo-q4"),
        ("../../etc/passwd", "etc-passwd"),
        ("C:\\evil.gguf:stream", "c-evil.gguf-stream"),
        ("\\\\host\\share", "host-share"),
        ("a\0b", "a-b"),
        ("..", "model"),
        ("con", "con"),
        ("trailing. ", "trailing"),
        ("x" * 300, "x" * 80),
    ],
)
def test_a_models_name_never_becomes_a_path(tmp_path: Path, name: str, file: str) -> None:
    store = ModelStore(tmp_path / "store")
    path = store.take(arrived(store), ModelName(name), SHA256, "somewhere")
    assert path == tmp_path / "store" / f"{file}-{SHA256[:12]}.gguf"
    assert [(one.name, one.path, one.sha256) for one in store.entries()] == [(name, path, SHA256)]


def test_what_is_no_model_gets_no_name(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    part = arrived(store, b"GGUF, it says")
    with pytest.raises(LoadFailed):
        store.take(part, ModelName("m"), sha256_of(b"GGUF, it says"), "")
    assert list(tmp_path.glob("*.gguf")) == []
    assert store.entries() == []


def test_a_later_file_of_a_name_takes_its_place(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    other = model_bytes(60_000, seed=3)
    first = store.take(arrived(store), ModelName("m"), SHA256, "")
    store.take(arrived(store), ModelName("n"), SHA256, "")
    second = store.take(arrived(store, other), ModelName("m"), sha256_of(other), "")
    assert [(one.name, one.path) for one in store.entries()] == [
        ("m", second),
        ("n", tmp_path / f"n-{SHA256[:12]}.gguf"),
    ]
    assert first.exists(), "somebody may be loading it"


@pytest.mark.parametrize(
    "file", ["../outside.gguf", "/etc/passwd", "C:\\x.gguf", ".hidden.gguf", "x.bin", "a/b.gguf", "gone.gguf"]
)
def test_an_index_that_somebody_changed_leads_nowhere_else(tmp_path: Path, file: str) -> None:
    (tmp_path / "outside.gguf").write_bytes(MODEL)
    store = ModelStore(tmp_path / "store")
    (tmp_path / "store").mkdir()
    index = {"models": {"m": {"file": file, "sha256": SHA256}}}
    (tmp_path / "store" / INDEX_FILE).write_bytes(msgspec.json.encode(index))
    assert store.entries() == []


def test_an_index_that_cannot_be_read_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ModelStore(tmp_path)
    (tmp_path / INDEX_FILE).write_bytes(b"{not json")
    assert store.entries() == []
    assert "models keep their files' names" in caplog.text
    store.take(arrived(store), ModelName("m"), SHA256, "")
    assert [one.name for one in store.entries()] == ["m"]


def unpacked(store: ModelStore, part: PartFile, content: bytes = b"{}") -> Path:
    with store.unpacking(part) as folder:
        folder.mkdir()
        (folder / "config.json").write_bytes(content)
        path = store.take_folder(folder, part, ModelName("Org/m"), SHA256, "copied")
    assert not folder.exists()
    return path


def test_a_folder_has_a_name_of_our_own_and_its_part_is_gone(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    store.take(arrived(store), ModelName("m"), SHA256, "")
    path = unpacked(store, arrived(store))
    assert path == tmp_path / f"org-m-{SHA256[:12]}"
    (entry,) = store.folders()
    assert (entry.name, entry.path, entry.sha256, entry.fetched) == ("Org/m", path, SHA256, True)
    assert [one.name for one in store.entries()] == ["m"], "both kinds are in one index"
    assert list(tmp_path.glob(".*.part*")) == [
        store.part(SHA256).path.with_name(f"{store.part(SHA256).path.name}.lock")
    ]


def test_a_folder_that_lay_there_before_makes_place(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    unpacked(store, arrived(store), b"first")
    path = unpacked(store, arrived(store), b"second")
    assert (path / "config.json").read_bytes() == b"second"
    assert [one.path for one in store.folders()] == [path]


def test_what_failed_to_unpack_leaves_nothing_and_what_a_crash_left_is_no_hindrance(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    part = arrived(store)
    with pytest.raises(LoadFailed), store.unpacking(part) as folder:
        folder.mkdir()
        (folder / "config.json").write_bytes(b"{}")
        raise LoadFailed("no model")
    assert not folder.exists()
    folder.mkdir()
    (folder / "left").write_bytes(b"")
    with store.unpacking(part) as again:
        assert again == folder
        assert not again.exists()


def test_a_folder_is_deleted_whole_and_only_by_its_name(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    path = unpacked(store, arrived(store))
    assert not store.remove(ModelName("org-m"))
    assert store.remove(ModelName("Org/m"))
    assert not path.exists()
    assert store.folders() == []
    assert not store.remove(ModelName("Org/m"))


@pytest.mark.parametrize("file", ["../outside-abcdef012345", "/etc", "C:\\x-abcdef012345", ".x-abcdef012345", "plain"])
def test_an_index_names_no_folder_elsewhere(tmp_path: Path, file: str) -> None:
    (tmp_path / "outside-abcdef012345").mkdir()
    (tmp_path / "store" / "plain").mkdir(parents=True)
    index = {"folders": {"m": {"file": file, "sha256": SHA256}}}
    (tmp_path / "store" / INDEX_FILE).write_bytes(msgspec.json.encode(index))
    store = ModelStore(tmp_path / "store")
    assert store.folders() == []
    assert not store.remove(ModelName("m"))


def test_room_is_what_is_left_beside_the_spare(tmp_path: Path) -> None:
    def away(_folder: Path) -> int:
        raise OSError(5, "Input/output error")

    store = ModelStore(tmp_path, spare_bytes=100, free=lambda _folder: 1000)
    store.require_room(900)
    with pytest.raises(InsufficientStorage, match=r"needs 0\.00 GB and 0\.00 GB must stay free"):
        store.require_room(901)
    with pytest.raises(TransferFailed, match="Input/output error"):
        ModelStore(tmp_path, free=away).require_room(1)


def test_the_free_space_of_a_folder_that_is_not_there_is_that_of_its_disk(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "a" / "b" / "c") > 0


def test_parts_that_nobody_goes_on_with_are_swept_after_two_weeks(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    old, young = store.part("old").path, store.part("young").path
    model = tmp_path / "model.gguf"
    now_s = 1_800_000_000.0
    for path, age_s in ((old, PARTS_KEPT_S + 1), (young, PARTS_KEPT_S - 60), (model, 10 * PARTS_KEPT_S)):
        path.write_bytes(b"x")
        os.utime(path, (now_s - age_s, now_s - age_s))
    store.sweep_parts(now_s=now_s)
    assert (old.exists(), young.exists(), model.exists()) == (False, True, True)
