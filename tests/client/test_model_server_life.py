"""How model server processes begin and end: refusals at the start, keys, signals, and the death of either process."""

from __future__ import annotations

import json
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from chorus_client.engines.transformers import missing
from tests.support.model_server import FOLDER, MODEL, command, model_server

pytestmark = pytest.mark.skipif(bool(missing()), reason="needs the extra transformers")


def copied(folder: Path) -> Path:
    shutil.copytree(FOLDER, folder)
    return folder


def refused(*flags: str, folder: Path = FOLDER) -> str:
    """The one line with which it ends before it loads anything."""
    ended = subprocess.run(
        command(*flags, folder=folder),
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("chorus-model-server: ")
    return ended.stderr


def test_a_missing_tokenizer_ends_the_start_with_its_name(tmp_path: Path) -> None:
    folder = copied(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in refused(folder=folder)


def test_weights_with_lying_offsets_end_the_start(tmp_path: Path) -> None:
    folder = copied(tmp_path / "m")
    weights = folder / "model.safetensors"
    raw = weights.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    name = next(one for one in header if one != "__metadata__")
    header[name]["data_offsets"][1] += 2**40
    changed = json.dumps(header).encode()
    weights.write_bytes(struct.pack("<Q", len(changed)) + changed + raw[8 + length :])
    assert "model.safetensors" in refused(folder=folder)


def test_wrong_arguments_end_the_start_in_one_line(tmp_path: Path) -> None:
    assert "config.json says 'llama'" in refused("--model-type", "gemma3")
    assert "--insecure" in refused("--host", "0.0.0.0")
    assert "cannot read the API key file" in refused("--api-key-file", str(tmp_path / "nothing"))
    assert "--model-name" in refused("--model-name", "../etc")
    assert "unrecognized arguments: --trust-remote-code" in refused("--trust-remote-code")


def test_a_taken_port_is_said_before_anything_loads() -> None:
    with model_server(wait=False) as first:
        port = first.url.rpartition(":")[2]
        assert f"cannot listen on 127.0.0.1:{port}" in refused("--port", port)


def test_only_a_key_opens_it_and_a_signal_ends_it_while_it_loads(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("secret-one\nsecret-two\n", "utf-8")
    with model_server("--api-key-file", str(key_file), wait=False) as server:
        assert server.http.get("/health").status_code == 503
        for wrong in ({}, {"Authorization": "Bearer nothing"}, {"Authorization": "secret-one"}):
            assert server.http.get("/v1/models", headers=wrong).status_code == 401
        assert httpx.get(f"{server.url}/v1/models", headers=[(b"Authorization", b"Bearer \xff\xff")]).status_code == 401
        good = {"Authorization": "Bearer secret-two"}
        assert server.http.get("/v1/models", headers=good).json()["data"][0]["status"] == {"value": "loading"}
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
        early = server.http.post("/v1/chat/completions", json=body, headers=good)
        assert early.status_code == 503
        assert int(early.headers["retry-after"]) >= 1
        computing = server.computing()
        asked_s = time.monotonic()
        server.process.terminate()
        code = server.process.wait(5)
        assert sys.platform == "win32" or code == 0
        assert time.monotonic() - asked_s < 3
        computing.wait(timeout=5)


def test_an_answer_breaks_off_in_words_when_the_computing_process_dies() -> None:
    with model_server() as server:
        with server.streaming(prompt="The", max_tokens=1000, ignore_eos=True) as events:
            next(events)
            server.computing().kill()
            last = list(events)[-1]
        assert last is not None
        assert "computing process ended" in json.dumps(last["error"])
        assert server.process.wait(5) == (1 if sys.platform == "win32" else 137)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: SIGKILL")
def test_no_computing_process_outlives_a_killed_server() -> None:
    with model_server(wait=False) as server:
        computing = server.computing()
        server.process.send_signal(signal.SIGKILL)
        # It is somewhere inside of torch's import, which must end first.
        gone, alive = psutil.wait_procs([computing], timeout=10)
        assert gone
        assert not alive
