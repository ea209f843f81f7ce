"""Real processes and real files: models that nobody has, that went away, or that are damaged."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from tests.support.engines import TINY_PATH
from tests.whole.support import Chorus, HttpReply, Running, cluster, eventually, http

QUESTION = "What is the capital of France?"
STRONG = Path(__file__).parents[2] / "docs" / "hardware" / "strong.toml"


class Site:
    """A hub and PCs that are all alike; each has the model `guest` in a folder of its own."""

    def __init__(self, chorus: Chorus) -> None:
        self._chorus = chorus
        told = chorus.up("--no-agent").ready()
        self.url = str(told["http_url"])
        self._join = str(told["join"])
        self.agents: dict[str, Running] = {}

    def join(self, *names: str) -> None:
        for name in names:
            self.file(name).parent.mkdir()
            shutil.copyfile(TINY_PATH, self.file(name))
            self._start(name)
        for name in names:
            self._until_ready(name)

    def join_again(self, name: str) -> None:
        self.agents[name].stop()
        self._start(name)
        self._until_ready(name)

    def _start(self, name: str) -> None:
        flags = (f"--models-dirs={self.file(name).parent}", f"--hardware={STRONG}", "--verify-digest-every-h=0")
        self.agents[name] = self._chorus.agent(name, self._join, *flags)

    def _until_ready(self, name: str) -> None:
        self.agents[name].ready()
        eventually(lambda: self.replica(name, self.assigned(name)) == "ready", within_s=20, what=f"{name} serves")
        eventually(lambda: self._is_hashed(name), within_s=20, what=f"{name} has hashed its files")

    def file(self, name: str) -> Path:
        return self._chorus.folder / f"models-{name}" / "guest.gguf"

    def node(self, name: str) -> dict[str, object]:
        rows = cast("list[dict[str, object]]", http(f"{self.url}/status").json()["clients"])
        return next(row for row in rows if row["name"] == name)

    def assigned(self, name: str) -> str:
        return str(self.node(name)["assigned_model"])

    def replica(self, name: str, model: str) -> object:
        replicas = cast("list[dict[str, object]]", self.node(name)["replicas"])
        return next((one["state"] for one in replicas if one["model"] == model), None)

    def _is_hashed(self, name: str) -> bool:
        kept = self._chorus.state_dir / "agents" / name
        return any("guest" in path.read_text(encoding="utf-8", errors="replace") for path in kept.glob("*.json"))

    def models(self, name: str) -> list[str]:
        return [str(model) for model in cast("list[object]", self.node(name)["models"])]

    def ask(self, model: str = "guest") -> HttpReply:
        messages = [{"role": "user", "content": QUESTION}]
        return http(f"{self.url}/v1/chat/completions", {"model": model, "messages": messages, "temperature": 0})

    def first_choice(self) -> tuple[str, str]:
        """Of PCs that cost the same the one with the smallest id is chosen; it, and the other one."""
        by_id = sorted(self.agents, key=lambda name: str(self.node(name)["node_id"]))
        return by_id[0], by_id[1]


@contextmanager
def site(folder: Path) -> Generator[Site]:
    with cluster(folder) as chorus:
        yield Site(chorus)


def flip_a_bit(path: Path) -> None:
    """As a bad disk does: neither its size nor its times change."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def test_a_model_that_nobody_has_is_refused_at_once_with_the_closest_names(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        here.join("attic")
        took_s: list[float] = []
        for _ in range(5):
            began_s = time.perf_counter()
            reply = here.ask("gest")
            took_s.append(time.perf_counter() - began_s)
            assert reply.status == 404
            assert b'"model_not_found"' in reply.body
            assert b"did you mean guest?" in reply.body
        assert min(took_s) <= 0.05


def test_a_file_that_went_away_after_it_was_announced_is_a_miss_and_another_pc_serves(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        here.join("attic", "cellar")
        first, other = here.first_choice()
        here.file(first).unlink()
        reply = here.ask()
        assert reply.status == 200, reply.body
        assert b"Paris" in reply.body
        assert here.replica(other, "guest") == "ready"
        assert "guest" in here.agents[first].output, "it was tried there first"
        eventually(lambda: "guest" not in here.models(first), within_s=5, what="it is offered there no more")
        here.file(other).unlink()
        here.agents[other].stop()
        eventually(lambda: here.node(other)["state"] == "dead", within_s=5, what="the other one left")
        assert here.ask().status == 404


@pytest.mark.parametrize("damage", [flip_a_bit, truncate])
def test_a_damaged_file_is_refused_before_any_engine_starts_and_another_pc_serves(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    with site(tmp_path) as here:
        here.join("attic", "cellar")
        first, other = here.first_choice()
        damage(here.file(first))
        before = {one.pid for one in here.agents[first].family()}
        reply = here.ask()
        assert reply.status == 200, reply.body
        assert b"Paris" in reply.body
        assert here.replica(other, "guest") == "ready"
        assert {one.pid for one in here.agents[first].family()} == before, "no engine was started on it"
        eventually(lambda: "guest" not in here.models(first), within_s=5, what="it is offered there no more")
        assert here.file(first).exists(), "what is whose is not for us to delete"


def test_a_damaged_file_that_nobody_else_has_is_named_and_a_good_one_in_its_place_serves(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        here.join("attic")
        flip_a_bit(here.file("attic"))
        for _ in range(2):
            reply = here.ask()
            assert reply.status == 503
            assert b'"model_damaged"' in reply.body
            assert b"attic" in reply.body and b"damaged" in reply.body
        here.file("attic").unlink()
        shutil.copyfile(TINY_PATH, here.file("attic"))
        here.join_again("attic")
        assert b"Paris" in here.ask().body
