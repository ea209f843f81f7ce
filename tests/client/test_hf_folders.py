"""The inventory of Hugging Face folders: names, identity, and what is left out."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import shutil
import sys
from pathlib import Path

import pytest

from chorus_client.hf_folders import HfFolders, digest_of
from chorus_proto.errors import ModelNotFound
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind
from tests.support.model_server import FOLDER


def looked(*roots: Path, state: Path, digest: bool = False) -> HfFolders:
    found = HfFolders(roots, state)

    async def look() -> None:
        await found.refresh()
        if digest:
            await found.digest()

    asyncio.run(look())
    return found


def names(found: HfFolders) -> list[str]:
    return [one.name for one in found.files()]


def test_a_folder_is_a_model_with_its_name_and_shape(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "models" / "acme" / "Demo Tiny_1")
    found = looked(tmp_path / "models", state=tmp_path)
    (file,) = found.files()
    assert file.name == "demo-tiny_1"
    assert file.engine is EngineKind.TRANSFORMERS
    assert file.shape is not None and file.shape.trained_context_tokens == 1024
    assert file.file_bytes == (FOLDER / "model.safetensors").stat().st_size
    assert found.path_of(ModelName("demo-tiny_1")) == tmp_path / "models" / "acme" / "Demo Tiny_1"
    with pytest.raises(ModelNotFound, match="Closest: demo-tiny_1"):
        found.path_of(ModelName("demo-tiny_2"))


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: the hub's cache is made of links there")
def test_the_hubs_cache_has_the_repositorys_name(tmp_path: Path) -> None:
    hub = tmp_path / "hub" / "models--acme--Demo-Tiny"
    shutil.copytree(FOLDER, hub / "blobs")
    snapshot = hub / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    for one in (hub / "blobs").iterdir():
        (snapshot / one.name).symlink_to(Path("..", "..", "blobs", one.name))
    # The real cache's blobs are named by digest; here they would be a second model.
    (hub / "blobs" / "config.json").rename(hub / "blobs" / "abc")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(Path("..", "..", "blobs", "abc"))
    assert names(looked(tmp_path / "hub", state=tmp_path)) == ["demo-tiny"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every file name is text")
def test_a_name_that_is_not_utf8_costs_no_folder_its_digest(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "models" / os.fsdecode(b"mod\xe8le"))
    shutil.copytree(FOLDER, tmp_path / "models" / "zebra")
    found = looked(tmp_path / "models", state=tmp_path, digest=True)
    assert names(found) == ["mod-le", "zebra"]
    assert all(one.digest for one in found.files())
    assert all(one.digest for one in looked(tmp_path / "models", state=tmp_path).files())  # they were kept


def test_the_identity_is_that_of_the_weights_alone(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "a" / "one")
    shutil.copytree(FOLDER, tmp_path / "b" / "two")
    (tmp_path / "b" / "two" / "README.md").write_text("other words")
    found = looked(tmp_path / "a", tmp_path / "b", state=tmp_path, digest=True)
    weights = FOLDER / "model.safetensors"
    line = f"{hashlib.sha256(weights.read_bytes()).hexdigest()}  model.safetensors\n"
    assert {one.digest for one in found.files()} == {hashlib.sha256(line.encode()).hexdigest()}
    assert names(found) == ["one", "two"]


def test_a_known_identity_is_not_computed_again_and_changed_weights_have_another(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "one"
    shutil.copytree(FOLDER, folder)
    first = looked(tmp_path / "models", state=tmp_path, digest=True).files()[0].digest
    assert looked(tmp_path / "models", state=tmp_path).files()[0].digest == first
    weights = folder / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    os.utime(weights, ns=(1, 1))
    assert looked(tmp_path / "models", state=tmp_path).files()[0].digest == ""
    assert looked(tmp_path / "models", state=tmp_path, digest=True).files()[0].digest not in ("", first)


def test_the_order_of_the_files_does_not_change_the_identity(tmp_path: Path) -> None:
    one, two = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    assert digest_of([one, two]) == digest_of([two, one]) != digest_of([one])


def test_what_cannot_be_used_is_left_out_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    models = tmp_path / "models"
    for name in ("good", "no-tokenizer", "strange", "other/good"):
        shutil.copytree(FOLDER, models / name)
    (models / "no-tokenizer" / "tokenizer.json").unlink()
    config = json.loads((FOLDER / "config.json").read_text("utf-8"))
    (models / "strange" / "config.json").write_text(json.dumps(config | {"model_type": "phi9"}))
    (models / "empty").mkdir()
    found = HfFolders([models], tmp_path)

    async def look_twice() -> None:
        await found.refresh()
        await found.refresh()

    with caplog.at_level(logging.WARNING):
        asyncio.run(look_twice())
    assert names(found) == ["good"]
    assert len(caplog.messages) == 3
    said = "\n".join(caplog.messages)
    assert "tokenizer.json is missing" in said
    assert "'phi9'" in said
    assert "has the name good too" in said


def test_a_copys_digest_is_known_with_the_identity_and_changes_with_any_file(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "one"
    shutil.copytree(FOLDER, folder)
    assert looked(tmp_path / "models", state=tmp_path).files()[0].copy_bytes == 0
    found = looked(tmp_path / "models", state=tmp_path, digest=True)
    (first,) = found.files()
    archive = found.archive_of_digest(first.copy_digest)
    assert archive is not None
    assert (archive.digests().archive, archive.total_bytes) == (first.copy_digest, first.copy_bytes)
    assert looked(tmp_path / "models", state=tmp_path).files() == [first], "it is remembered"
    with (folder / "chat_template.jinja").open("a") as template:
        template.write("{# other #}")
    (changed,) = looked(tmp_path / "models", state=tmp_path).files()
    assert (changed.digest, changed.copy_digest, changed.copy_bytes) == (first.digest, "", 0)
    (anew,) = looked(tmp_path / "models", state=tmp_path, digest=True).files()
    assert anew.digest == first.digest
    assert anew.copy_digest not in ("", first.copy_digest)
    assert found.archive_of_digest("") is None


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: links without privilege")
def test_a_folder_that_cannot_be_sent_is_still_a_model_here(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "models" / "one"
    shutil.copytree(FOLDER, folder)
    (tmp_path / "elsewhere").write_text("{}")
    (folder / "added_tokens.json").symlink_to(tmp_path / "elsewhere")
    (file,) = looked(tmp_path / "models", state=tmp_path, digest=True).files()
    assert (bool(file.digest), file.copy_digest) == (True, "")
    assert "is not sent to other nodes: added_tokens.json is a link that leads out" in caplog.text


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: links without privilege")
def test_weights_that_lead_out_of_the_models_folder_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "one"
    shutil.copytree(FOLDER, folder)
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (folder / "model.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (tmp_path / "models" / "linked").symlink_to(FOLDER)
    assert names(looked(tmp_path / "models", state=tmp_path)) == []
