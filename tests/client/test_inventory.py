from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import sys
from pathlib import Path

import pytest

from chorus_client.inventory import Inventory, bundled_folder
from chorus_proto.catalogue import bundled
from chorus_proto.errors import ModelNotFound
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind
from tests.client.engine_contract import silent
from tests.support.gguf_writer import llama

BUNDLED = ["all-minilm-l6-v2", "demo-medium", "demo-small", "demo-tiny"]


def put(path: Path, content: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(llama().encoded() if content is None else content)
    return path


def looked(state: Path, *folders: Path) -> Inventory:
    inventory = Inventory(folders, state)
    asyncio.run(inventory.refresh())
    return inventory


def own_names(inventory: Inventory) -> list[str]:
    return [file.name for file in inventory.files() if file.name not in BUNDLED]


def test_the_bundled_models_have_their_catalogue_names(tmp_path: Path) -> None:
    files = looked(tmp_path).files()
    assert [file.name for file in files] == BUNDLED
    assert [file.name for file in files if file.embedding] == ["all-minilm-l6-v2"]
    assert {file.engine for file in files} == {EngineKind.LLAMA_SERVER}
    assert all(file.shape is not None for file in files)


def test_a_users_file_is_named_after_itself(tmp_path: Path) -> None:
    path = put(tmp_path / "m" / "publisher" / "repo" / "My Llama (3B) Q4_K_M.GGUF")
    inventory = looked(tmp_path / "state", tmp_path / "m")
    assert own_names(inventory) == ["my-llama-3b-q4_k_m"]
    assert inventory.path_of(ModelName("My-Llama-3B-Q4_K_M:latest")).samefile(path)


def test_only_gguf_files_are_taken(tmp_path: Path) -> None:
    for name in ("a.bin", "b.gguf.part", ".c.gguf", "d.safetensors", "e.pt", "f.pkl"):
        put(tmp_path / "m" / name)
    assert own_names(looked(tmp_path / "state", tmp_path / "m")) == []


def test_a_damaged_file_is_logged_once_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "m" / "bad.gguf", llama().encoded()[:-100])
    put(tmp_path / "m" / "good.gguf")
    inventory = Inventory([tmp_path / "m"], tmp_path / "state")
    with caplog.at_level(logging.WARNING):
        asyncio.run(inventory.refresh())
        asyncio.run(inventory.refresh())
    assert own_names(inventory) == ["good"]
    assert [record.getMessage().count("cut short") for record in caplog.records] == [1]


def test_projectors_adapters_and_parts_are_no_models(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "m" / "mmproj.gguf", llama({"general.architecture": "clip"}).encoded())
    put(tmp_path / "m" / "lora.gguf", llama({"general.type": "adapter"}).encoded())
    put(tmp_path / "m" / "x-00001-of-00002.gguf", llama({"split.count": 2}).encoded())
    assert own_names(looked(tmp_path / "state", tmp_path / "m")) == []
    assert "one part of 2" in caplog.text


def test_of_two_files_with_one_name_the_first_folder_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = put(tmp_path / "a" / "same.gguf"), put(tmp_path / "b" / "same.gguf")
    put(tmp_path / "b" / "demo-tiny.gguf")
    inventory = looked(tmp_path / "state", tmp_path / "a", tmp_path / "b")
    assert inventory.path_of(ModelName("same")).samefile(first)
    bundled = bundled_folder()
    assert bundled is not None
    assert inventory.path_of(ModelName("demo-tiny")).is_relative_to(bundled)
    assert str(second) in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside = put(tmp_path / "outside" / "secret.gguf")
    inside = put(tmp_path / "m" / "real.gguf")
    (tmp_path / "m" / "link.gguf").symlink_to(outside)
    (tmp_path / "m" / "folder").symlink_to(outside.parent)
    (tmp_path / "m" / "alias.gguf").symlink_to(inside)
    assert own_names(looked(tmp_path / "state", tmp_path / "m")) == ["alias", "real"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
def test_a_link_to_itself_is_no_model_and_hides_no_other(tmp_path: Path) -> None:
    put(tmp_path / "m" / "real.gguf")
    (tmp_path / "m" / "loop.gguf").symlink_to("loop.gguf")
    inventory = looked(tmp_path / "state", tmp_path / "m")
    assert own_names(inventory) == ["real"]

    (tmp_path / "m" / "real.gguf").unlink()
    (tmp_path / "m" / "real.gguf").symlink_to("real.gguf")
    with pytest.raises(ModelNotFound, match="was deleted"):
        asyncio.run(inventory.checked(ModelName("real"), silent))


def test_a_missing_models_folder_is_no_error(tmp_path: Path) -> None:
    assert own_names(looked(tmp_path / "state", tmp_path / "none")) == []


def test_an_unknown_model_is_refused_with_the_closest_names(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="demo-tiny"):
        looked(tmp_path).path_of(ModelName("demo-tinny"))


def test_files_that_come_and_go_are_seen_at_the_next_look(tmp_path: Path) -> None:
    path = put(tmp_path / "m" / "a.gguf")
    inventory = looked(tmp_path / "state", tmp_path / "m")
    path.rename(tmp_path / "m" / "b.gguf")
    asyncio.run(inventory.refresh())
    assert own_names(inventory) == ["b"]


def digest_of(inventory: Inventory, name: str) -> str:
    return next(file.digest for file in inventory.files() if file.name == name)


def test_digests_come_later_and_are_kept_while_the_file_stays_the_same(tmp_path: Path) -> None:
    path = put(tmp_path / "m" / "a.gguf")
    inventory = looked(tmp_path / "state", tmp_path / "m")
    assert digest_of(inventory, "a") == ""
    asyncio.run(inventory.digest())
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest_of(inventory, "a") == right
    kept = tmp_path / "state" / "digests.json"
    files = json.loads(kept.read_text())["files"]
    cached = {name: {**one, "sha256": "from the cache"} for name, one in files.items()}
    kept.write_text(json.dumps({"files": cached}))
    assert digest_of(looked(tmp_path / "state", tmp_path / "m"), "a") == "from the cache"
    os.utime(path, ns=(1, 1))
    again = looked(tmp_path / "state", tmp_path / "m")
    assert digest_of(again, "a") == ""
    asyncio.run(again.digest())
    assert digest_of(again, "a") == right


def test_a_damaged_digest_cache_is_computed_anew(tmp_path: Path) -> None:
    put(tmp_path / "m" / "a.gguf")
    put(tmp_path / "state" / "digests.json", b"{")
    inventory = looked(tmp_path / "state", tmp_path / "m")
    asyncio.run(inventory.digest())
    assert len(digest_of(inventory, "a")) == 64


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every file name is text")
def test_a_name_that_is_not_utf8_costs_no_model_its_digest(tmp_path: Path) -> None:
    put(tmp_path / "m" / os.fsdecode(b"mod\xe8le.gguf"))
    put(tmp_path / "m" / "zebra.gguf")

    async def digested() -> list[str]:
        inventory = Inventory([tmp_path / "m"], tmp_path / "state")
        await inventory.refresh()
        known = [digest_of(inventory, name) for name in ("mod-le", "zebra")]
        await inventory.digest()
        assert all(file.digest for file in inventory.files())
        return known

    assert asyncio.run(digested()) == ["", ""]
    assert all(asyncio.run(digested()))  # they were kept


def test_the_bundled_files_are_those_of_the_catalogue() -> None:
    folder = bundled_folder()
    assert folder is not None
    for entry in bundled():
        assert entry.file is not None
        raw = (folder / entry.file).read_bytes()
        assert (entry.name, len(raw), hashlib.sha256(raw).hexdigest()) == (entry.name, entry.file_bytes, entry.sha256)
