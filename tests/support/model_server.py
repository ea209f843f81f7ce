"""A real model server process for tests, with one torch thread, and short ways to ask it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import httpx
import psutil

FOLDER = Path(__file__).resolve().parents[1] / "data" / "demo-tiny-hf"
MODEL = "demo-tiny"
_START_WITHIN_S = 60.0
_END_WITHIN_S = 10.0

Json = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """`loading`: what /health said right after the start."""

    http: httpx.Client
    process: subprocess.Popen[str]
    url: str
    loading: httpx.Response

    def chat(self, question: str, **more: object) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=chat_body(question, **more))

    def answer(self, question: str, **more: object) -> str:
        """The whole answer's text; fails unless it is a 200."""
        answer = self.chat(question, **more)
        assert answer.status_code == 200, answer.text
        return cast("str", choice_of(answer.json())["message"]["content"])

    def complete(self, prompt: str, **more: object) -> httpx.Response:
        return self.http.post("/v1/completions", json={"model": MODEL, "prompt": prompt, "temperature": 0} | more)

    @contextlib.contextmanager
    def streaming(self, **body: object) -> Generator[Iterator[Json | None]]:
        """The events of a streamed chat or completion; None is `[DONE]`."""
        path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
        with self.http.stream("POST", path, json={"model": MODEL, "temperature": 0, "stream": True} | body) as answer:
            assert answer.status_code == 200, answer.read()
            yield _events(answer)

    def busy(self) -> int:
        rows = cast("list[Json]", self.http.get("/slots").json())
        return sum(bool(row["is_processing"]) for row in rows)

    def until_idle(self, within_s: float = 2.0) -> None:
        ends_at = time.monotonic() + within_s
        while self.busy():
            assert time.monotonic() < ends_at, f"still busy after {within_s} s"
            time.sleep(0.005)

    def computing(self) -> psutil.Process:
        """The process that holds torch."""
        (child,) = psutil.Process(self.process.pid).children()
        return child


def chat_body(question: str, **more: object) -> Json:
    return {"model": MODEL, "messages": [{"role": "user", "content": question}], "temperature": 0} | more


def choice_of(body: object) -> dict[str, dict[str, object]]:
    """The one choice of an answer; what its members are, the test knows."""
    (choice,) = cast("dict[str, list[dict[str, dict[str, object]]]]", body)["choices"]
    return choice


def text_of(events: Iterator[Json | None]) -> str:
    """The text of a streamed chat, which must end with `[DONE]`."""
    found: list[str] = []
    for event in events:
        if event is None:
            return "".join(found)
        for choice in cast("list[dict[str, dict[str, str]]]", event["choices"]):
            found.append(choice.get("delta", {}).get("content") or "")
    raise AssertionError("the stream ended without [DONE]")


def _events(answer: httpx.Response) -> Iterator[Json | None]:
    for line in answer.iter_lines():
        if line.startswith("data: "):
            yield None if line == "data: [DONE]" else cast("Json", json.loads(line[6:]))


def command(*flags: str, folder: Path = FOLDER) -> list[str]:
    own = ["--model-path", str(folder), "--model-name", MODEL, "--port", "0", "--threads", "1"]
    return [sys.executable, "-m", "chorus_client.model_server", *own, *flags]


@contextlib.contextmanager
def model_server(
    *flags: str, folder: Path = FOLDER, headers: Mapping[str, str] | None = None, wait: bool = True
) -> Generator[RunningServer]:
    """A server on a free port, ready unless `wait` is False; it and its children are gone afterwards."""
    process = subprocess.Popen(
        command(*flags, folder=folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        assert line.startswith("listening "), process.stderr.read()
        url = line.split()[1]
        with httpx.Client(base_url=url, timeout=60.0, headers=dict(headers or {})) as http:
            server = RunningServer(http=http, process=process, url=url, loading=http.get("/health"))
            if wait:
                _until_ready(server)
            yield server
    finally:
        process.terminate()
        try:
            process.wait(_END_WITHIN_S)
        finally:
            process.kill()
            process.communicate()


def _until_ready(server: RunningServer) -> None:
    ends_at = time.monotonic() + _START_WITHIN_S
    while server.http.get("/health").status_code != 200:
        assert server.process.poll() is None, "the server ended while it loaded"
        assert time.monotonic() < ends_at, f"not ready within {_START_WITHIN_S} s"
        time.sleep(0.05)
