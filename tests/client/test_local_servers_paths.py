from __future__ import annotations

import os
from pathlib import Path

import pytest

from chorus_client.local_servers.paths import check_gguf_name, model_path, program_path
from chorus_proto.settings import SettingsError


@pytest.mark.parametrize(
    "text",
    [
        *("../../x.gguf", "a/../x.gguf", "./x.gguf", "a//x.gguf", "/x.gguf", "~/x.gguf", "..", ""),
        *("C:\\x.gguf", "C:/x.gguf", "C:x.gguf", "\\\\h\\s\\x.gguf", "//h/s/x.gguf", "a\\x.gguf", "x:ads.gguf"),
        *("x.gguf:ads", "CON", "con.gguf", "nul.gguf", "a/COM1.gguf", "lpt9.x.gguf", "AUX .gguf", "conin$.gguf"),
        *("x.gguf%00.txt", "x.gguf\0", "x.gguf\n", "x.gguf.", "x.gguf ", "a./x.gguf", " x.gguf", "x.bin", "x.pt"),
    ],
)
def test_a_name_that_could_lead_elsewhere_is_refused_on_every_system(text: str) -> None:
    with pytest.raises(SettingsError, match="gguf_file"):
        check_gguf_name(text, key="gguf_file")


@pytest.mark.parametrize("text", ["x.gguf", "X.GGUF", "a b/x-1.0.gguf", "콘/модель.gguf", "console.gguf", "..x.gguf"])
def test_an_ordinary_name_is_taken(text: str) -> None:
    check_gguf_name(text, key="gguf_file")


def test_the_first_folder_that_has_the_file_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    (second / "m").mkdir(parents=True)
    (second / "m" / "x.gguf").touch()
    assert model_path((first, second), "m", "x.gguf", key="k") == (second / "m" / "x.gguf").resolve()
    with pytest.raises(SettingsError, match="models_dir"):
        model_path((first,), "m", "x.gguf", key="k")


def test_a_link_out_of_the_models_folder_is_refused(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (tmp_path / "secret.gguf").touch()
    (models / "inside.gguf").touch()
    try:
        (models / "x.gguf").symlink_to(tmp_path / "secret.gguf")
        (models / "y.gguf").symlink_to(models / "inside.gguf")
    except OSError:
        pytest.skip("needs POSIX: this user may not make links")
    with pytest.raises(SettingsError, match="leads out"):
        model_path((models,), None, "x.gguf", key="gguf_file")
    assert model_path((models,), None, "y.gguf", key="gguf_file").name == "inside.gguf"


@pytest.mark.parametrize(
    "text", ["bundled", "chorus-llama-server", "/opt/bin/chorus-llama-server", "chorus-llama-server.exe"]
)
def test_the_bundled_engine_goes_by_its_word_and_its_name(tmp_path: Path, text: str) -> None:
    assert program_path(text, tmp_path, key="k") is None


def test_a_program_is_found_from_the_files_folder(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "configs").mkdir()
    program = tmp_path / "bin" / "llama-server"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)
    assert program_path("../bin/llama-server", tmp_path / "configs", key="k") == program.resolve()


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX: mode bits")
@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (b"\x7fELF", 0o644, "can be run"),
        (b"\x7fELF", 0o757, "chmod o-w"),
        (b"#!/bin/sh\n", 0o755, "a script"),
    ],
)
def test_a_program_that_may_be_anything_is_refused(tmp_path: Path, content: bytes, mode: int, said: str) -> None:
    program = tmp_path / "llama-server"
    program.write_bytes(content)
    program.chmod(mode)
    with pytest.raises(SettingsError, match=said):
        program_path(str(program), tmp_path, key="llama_server_path")


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX: mode bits")
def test_a_program_in_a_folder_that_everybody_may_change_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    program = folder / "llama-server"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)
    folder.chmod(0o777)
    with pytest.raises(SettingsError, match="every user"):
        program_path(str(program), tmp_path, key="llama_server_path")


@pytest.mark.parametrize("text", ["\\\\host\\share\\llama-server", "//host/llama-server", "x\0", "nowhere"])
def test_a_program_elsewhere_or_nowhere_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="llama_server_path"):
        program_path(text, tmp_path, key="llama_server_path")
