"""The bundled `chorus-llama-server` command as a person meets it: refusals in one line, and its guarded surface."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.engines import TINY_PATH

COMMAND = [sys.executable, "-m", "chorus_client.llama_cpp_server"]


def refused(*flags: str) -> str:
    done = subprocess.run([*COMMAND, *flags], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-m", "no-such-file.gguf"], "cannot read the model file"),
        (["-m", __file__], "not a GGUF file"),
        (["-m", str(TINY_PATH), "--port", "x"], "whole number"),
        (["-m", str(TINY_PATH), "--parallel", "0"], "from 1 to 256"),
        (["-m", str(TINY_PATH), "--cache-type-k", "f32"], "not one of f16"),
        (["-m", str(TINY_PATH), "--temp", "nan"], "not a number"),
        (["-m", str(TINY_PATH), "--numa", "isolate"], "--numa"),
        (["-m", str(TINY_PATH), "--hf-repo", "a/b"], "--hf-repo"),
        (["-m", str(TINY_PATH), "--api-key-file", "no-such-key"], "API key file"),
    ],
)
def test_a_mistake_is_answered_with_one_line(flags: list[str], words: str) -> None:
    assert words in refused(*flags)


def test_a_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"127.0.0.1:{port}" in refused("-m", str(TINY_PATH), "--port", port)


def test_it_says_where_it_listens_and_grants_nothing_to_browsers(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [*COMMAND, "-m", str(TINY_PATH), "--port", "0", "-c", "512"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as server,
    ):
        try:
            assert server.stdout is not None
            word, url = server.stdout.readline().split()
            assert word == "listening"
            request = urllib.request.Request(f"{url}/v1/models", headers={"Origin": "https://evil.example"})
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert answer.status == 200
                assert not answer.headers.get("Access-Control-Allow-Origin")
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(urllib.request.Request(url, headers={"Accept-Encoding": "gzip"}), timeout=10)
        finally:
            server.terminate()
            server.wait(timeout=10)


def test_the_engine_works_with_the_parameters_that_it_was_given(tmp_path: Path) -> None:
    sampling = {"temp": 0.25, "top-k": 7, "top-p": 0.5, "min-p": 0.125, "seed": 9, "repeat-penalty": 1.25}
    words = [word for name, value in sampling.items() for word in (f"--{name}", str(value))]
    kept = ["-ctk", "q8_0", "-ctv", "q4_0", "-fa", "on", "-b", "128", "-ub", "64", "--swa-full", "--no-mmap", "--mlock"]
    log = tmp_path / "log"
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [*COMMAND, "-m", str(TINY_PATH), "--port", "0", "-c", "512", *words, *kept],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as server,
    ):
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[1]
            with urllib.request.urlopen(f"{url}/props", timeout=10) as answer:
                props = json.load(answer)["default_generation_settings"]["params"]
            names = {"temp": "temperature"}
            told = {name: props[names.get(name, name.replace("-", "_"))] for name in sampling}
            assert told == sampling
        finally:
            server.terminate()
            server.wait(timeout=10)
