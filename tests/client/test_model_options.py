from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from chorus_client.engine_parameters import as_flags
from chorus_client.model_options import ModelOptions, read_model_options
from chorus_proto.ids import ModelName
from chorus_proto.settings import SettingsError
from tests.client.test_engine_parameters import FORBIDDEN

FULL = """
[model."Qwen3:8B"]
context_tokens = 8192
slots = 2
gpu_layers = 20
keep_alive_s = 600
pin = true
preload = true
params = { cache-type-k = "q8_0", ubatch-size = "256" }

[model.demo-tiny]
"""


def read(folder: Path, text: str | bytes) -> dict[str, ModelOptions]:
    path = folder / "models.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return {str(name): one for name, one in read_model_options(path).items()}


def refused(folder: Path, text: str | bytes) -> str:
    with pytest.raises(SettingsError) as caught:
        read(folder, text)
    words = str(caught.value)
    assert str(folder / "models.toml") in words
    assert "\n" not in words
    return words


def test_every_key_is_read_and_names_are_compared_as_everywhere(tmp_path: Path) -> None:
    assert read(tmp_path, FULL) == {
        "qwen3:8b": ModelOptions(
            context_tokens=8192,
            slots=2,
            keep_alive_s=600.0,
            pin=True,
            preload=True,
            params={"cache-type-k": "q8_0", "ubatch-size": 256, "n-gpu-layers": 20},
        ),
        "demo-tiny": ModelOptions(),
    }


def test_no_file_is_no_options() -> None:
    assert read_model_options(None) == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model = 3", "model must be tables"),
        ("models = 3", "unknown key 'models'"),
        ("[model]\na = 3", "write a table of"),
        ("[model.a]\nslotz = 3", "model.'a': unknown key 'slotz'; did you mean 'slots'?"),
        ("[model.a]\nslots = 0", "model.'a'.slots = 0: write a whole number from 1 to 256"),
        ("[model.a]\nslots = true", "slots = True: write a whole number"),
        ("[model.a]\nslots = '2; touch x'", "write a whole number"),
        ("[model.a]\ncontext_tokens = 1.5", "write a whole number"),
        ("[model.a]\ncontext_tokens = 99999999999", "write a whole number from 1 to 16777216"),
        ("[model.a]\nkeep_alive_s = -1", "write seconds from 0"),
        ("[model.a]\nkeep_alive_s = nan", "write seconds from 0"),
        ("[model.a]\nkeep_alive_s = inf", "write seconds from 0"),
        ("[model.a]\npin = 1", "pin = 1: write true or false"),
        ("[model.a]\nparams = 3", "params = 3: write {"),
        ("[model.a.params]\nctx-sze = 3", "model.'a'.params.ctx-sze: unknown parameter; did you mean 'ctx-size'"),
        ("[model.a.params]\nctx-size = 4096", "write context_tokens beside params"),
        ("[model.a.params]\nparallel = 2", "write slots beside params"),
        ("[model.a.params]\njinja = false", "Chorus needs the model's own chat template"),
        ("[model.a]\ngpu_layers = -2", "write a whole number from -1 to 10000"),
        ("[model.a]\ngpu_layers = 2\nparams = { n-gpu-layers = 3 }", "gpu_layers and params.n-gpu-layers are the same"),
        ("[model.a.params]\ncache-type-v = 'q8_0'\nflash-attn = false", "needs flash attention"),
        ("[model.a.params]\nthreads = 2024-01-01", "write a whole number from 1 to 1024"),
        ("[model.a]\n[model.A]", "'a' and 'A' are the same model"),
        ("[model.a]\n[model.'a:latest']", "'a' and 'a:latest' are the same model"),
        ("[model.a]\n[model.a]", "not TOML"),
        ("[model.a]\nslots = 1\nslots = 1", "not TOML"),
        ("[model.'']", "a name has 1 to 256 printable letters"),
        ('[model."a\\u0007"]', "a name has 1 to 256 printable letters"),
        (f"[model.{'a' * 257}]", "a name has 1 to 256 printable letters"),
        ("[model.a", "not TOML"),
        ("x = " + "[" * 50_000, "not TOML: nested too deeply"),
        ("x = " + "9" * 10_000, "not TOML"),
        (b"x = '\xff'", "not UTF-8"),
        ("#" * 300_000, "larger than 262144 bytes"),
        ("".join(f"[model.m{index}]\n" for index in range(1025)), "at most 1024 are read"),
    ],
)
def test_what_is_wrong_is_named_with_the_file_and_the_fix(tmp_path: Path, text: str | bytes, says: str) -> None:
    assert says in refused(tmp_path, text)


@pytest.mark.parametrize("name", FORBIDDEN)
def test_no_denied_parameter_can_be_set_for_a_model(tmp_path: Path, name: str) -> None:
    for written in (name, f"--{name}", name.upper(), name.replace("-", "_")):
        assert "never passed to an engine" in refused(tmp_path, f"[model.a.params]\n'{written}' = 'x'")


@pytest.mark.parametrize(
    "value", ["4096; touch x", "$(id)", "`id`", "4096\\n--host", "--host", "-1 --host 0.0.0.0", ""]
)
@pytest.mark.parametrize("name", ["ubatch-size", "temp", "cache-type-k", "mlock", "n-gpu-layers"])
def test_a_value_that_is_not_its_parameters_own_reaches_no_command_line(tmp_path: Path, name: str, value: str) -> None:
    assert f"params.{name} = " in refused(tmp_path, f'[model.a.params]\n{name} = "{value}"')


def test_what_is_taken_becomes_a_flag_and_a_value_each(tmp_path: Path) -> None:
    options = read(tmp_path, FULL)["qwen3:8b"]
    flags = as_flags(options.params, bundled=True, key="params")
    assert flags == ["--cache-type-k", "q8_0", "--ubatch-size", "256", "--n-gpu-layers", "20"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.toml does not exist"):
        read_model_options(tmp_path / "nothing.toml")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: a named pipe")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "models.toml")
    with pytest.raises(SettingsError, match="not a regular file"):
        read_model_options(tmp_path / "models.toml")


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    assert list(read(tmp_path, b"\xef\xbb\xbf[model.a]\nslots = 3")) == [ModelName("a")]
