"""What a model folder must and must not hold, checked before anything is loaded."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chorus_client.model_server.folder import ModelType, check_folder
from chorus_proto.errors import LoadFailed
from tests.support.model_server import FOLDER


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "model"))


def configured(folder: Path, name: str = "config.json", **changes: object) -> None:
    config = json.loads((folder / name).read_text("utf-8")) | changes
    (folder / name).write_text(json.dumps(config), "utf-8")


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def test_a_sound_folder_gives_its_facts(folder: Path) -> None:
    found = check_folder(folder, ModelType.LLAMA)
    assert found.model_type == "llama"
    assert found.trained_context_tokens == 1024
    assert found.file_bytes == (folder / "model.safetensors").stat().st_size
    assert found.shape is not None and found.shape.layers == 4


def test_a_type_that_is_not_known_is_taken_when_nobody_insists(folder: Path) -> None:
    configured(folder, model_type="phi9")
    found = check_folder(folder)
    assert (found.model_type, found.trained_context_tokens, found.shape) == ("phi9", 1024, None)


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda one: (one / "tokenizer.json").unlink(), r"tokenizer\.json is missing"),
    (lambda one: (one / "tokenizer.json").write_bytes(b""), r"tokenizer\.json is empty"),
    (lambda one: (one / "config.json").unlink(), r"config\.json cannot be read"),
    (lambda one: (one / "config.json").write_text("[1]"), r"config\.json cannot be used"),
    (lambda one: (one / "config.json").write_text("{}"), "model_type is missing"),
    (lambda one: (one / "model.safetensors").unlink(), r"model\.safetensors cannot be read"),
    (lambda one: (one / "model.safetensors").write_bytes(b"\x80\x04."), r"model\.safetensors cannot be used"),
    (only_pickles, r"pytorch_model\.bin, a pickle file"),
    (lambda one: configured(one, auto_map={"AutoModel": "x.Y"}), "program code of its own"),
    (lambda one: configured(one, "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.Y"]}), "program code"),
    (lambda one: (one / "adapter_config.json").write_text("{}"), "adapter of another model"),
    (lambda one: configured(one, num_hidden_layers=7), "says 7 layers"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_a_folder_that_cannot_be_served_is_refused_in_words(
    folder: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(folder)
    with pytest.raises(LoadFailed, match=words):
        check_folder(folder)


def test_pickles_beside_safetensors_do_no_harm(folder: Path) -> None:
    (folder / "training_args.bin").write_bytes(b"\x80\x04.")
    assert check_folder(folder).file_bytes


@pytest.mark.parametrize("wanted", [ModelType.GEMMA3, ModelType.GPT_OSS, ModelType.MISTRAL])
def test_another_model_type_than_asked_for_is_refused(folder: Path, wanted: ModelType) -> None:
    with pytest.raises(LoadFailed, match=r"config\.json says 'llama'"):
        check_folder(folder, wanted)


@pytest.mark.parametrize("path", ["nothing/there", "a\0b"])
def test_a_path_that_is_no_folder_is_refused(path: str) -> None:
    with pytest.raises(LoadFailed):
        check_folder(Path(path))


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: pipes in the file system")
def test_a_pipe_is_no_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(LoadFailed, match="regular file"):
        check_folder(folder)
