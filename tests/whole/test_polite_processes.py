"""Real processes: an owner who comes, a PC that sleeps and is woken, processes that stand still, clocks that jump."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import httpx
import psutil
import pytest

from chorus_client.hardware.network import mac_addresses
from chorus_client.scripted_text import scripted_text
from chorus_server.magic_packet import magic_packet
from tests.support.message_bus import Answer, FakeBus, fake_bus
from tests.support.patience import granted_s
from tests.whole.streams import open_stream
from tests.whole.support import Chorus, Running, chat, cluster, eventually, http, run_chorus

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs POSIX: Linux's message bus and SIGSTOP")

QUICK = ("--heartbeat-s=0.2", "--suspect-after-s=0.6", "--dead-after-s=2")
SCRIPTED = ("--engines=scripted", "--slept-after-s=1")
NOBODY = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/nowhere", "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nowhere"}


TOKENS = 32
"""Of each scripted answer."""
ASK: dict[str, object] = {"model": "scripted", "messages": [{"role": "user", "content": "now"}]}


class Site:
    """A hub, and agents on the scripted engine."""

    def __init__(self, chorus: Chorus, *flags: str, **environment: str) -> None:
        self.chorus = chorus
        self.hub = chorus.up("--no-agent", *QUICK, *flags, **environment)
        told = self.hub.ready()
        self.url = str(told["http_url"])
        self.grpc = str(told["grpc_address"])
        self.join = str(told["join"])

    def agent(self, name: str, *flags: str, join: str = "", **environment: str) -> Running:
        agent = self.chorus.agent(name, join or self.join, *SCRIPTED, *flags, **{**NOBODY, **environment})
        agent.ready()
        return agent

    def node(self, name: str) -> dict[str, object]:
        rows = cast("list[dict[str, object]]", http(f"{self.url}/status").json()["clients"])
        return next(row for row in rows if row["name"] == name)

    def state_of(self, name: str) -> object:
        return self.node(name)["state"]

    def courtesy_of(self, name: str) -> dict[str, object] | None:
        return cast("dict[str, object] | None", self.node(name)["courtesy"])

    def replica_of(self, name: str) -> dict[str, object]:
        replicas = cast("list[dict[str, object]]", self.node(name)["replicas"])
        return replicas[0] if replicas else {}

    def waiting(self) -> int:
        return cast("dict[str, int]", http(f"{self.url}/status").json()["requests"])["waiting"]

    def is_ready(self, name: str) -> bool:
        return self.state_of(name) == "alive" and self.replica_of(name).get("state") == "ready"


@contextmanager
def site(folder: Path, *flags: str, **environment: str) -> Generator[Site]:
    with cluster(folder) as chorus:
        yield Site(chorus, *flags, **environment)


@contextmanager
def frozen(process: Running) -> Generator[None]:
    """As a PC that sleeps: nothing of it runs."""
    process.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.process.send_signal(signal.SIGCONT)


class Owner:
    """GNOME, as far as it tells when somebody last touched the PC."""

    def __init__(self) -> None:
        self.idle_ms = 10_000_000

    def GetIdletime(self) -> Answer:  # D-Bus' name
        return "t", (self.idle_ms,)


def test_an_owner_who_comes_is_noticed_and_what_runs_is_not_cut(tmp_path: Path) -> None:
    owner = Owner()
    with fake_bus(tmp_path, GetIdletime=owner.GetIdletime) as desktop, site(tmp_path) as here:
        flags = ("--polite-owner=lower", "--scripted-tokens-per-s=5")
        here.agent("attic", *flags, DBUS_SESSION_BUS_ADDRESS=desktop.address)
        eventually(lambda: here.is_ready("attic"), within_s=10, what="it serves")
        assert here.courtesy_of("attic") is None
        with open_stream(here.url, "scripted", "Hello there", max_tokens=TOKENS) as stream:
            stream.read_until(b'"content"', within_s=10)
            owner.idle_ms = 0
            eventually(lambda: here.courtesy_of("attic"), within_s=6, what="noticed within 5 s, told within 1 s more")
            assert here.courtesy_of("attic") == {"paused": False, "slots": 1, "reason": "its owner is at the keyboard"}
            answers: list[str] = []
            asking = threading.Thread(target=lambda: answers.append(chat(here.url, "scripted", "hello")))
            asking.start()
            eventually(lambda: here.waiting() == 1, within_s=5, what="one slot is all")
            stream.read_until(b"[DONE]", within_s=20)
            assert stream.text == scripted_text("Hello there", TOKENS)
            asking.join(timeout=20)
            assert answers == [scripted_text("hello", TOKENS)]
        shown = run_chorus("nodes", f"--coordinator={here.grpc}", f"--state-dir={here.chorus.state_dir}")
        assert "polite, slots: 1: its owner is at the keyboard" in " ".join(shown.out.split()), shown
        owner.idle_ms = 10_000_000
        eventually(lambda: here.courtesy_of("attic") is None, within_s=6, what="the owner left")


def test_a_pc_outside_its_hours_makes_a_pause_and_its_work_goes_elsewhere(tmp_path: Path) -> None:
    later = [(datetime.now() + timedelta(hours=hours)).strftime("%H:%M") for hours in (3, 4)]
    with site(tmp_path) as here:
        here.agent("attic", f"--polite-hours={later[0]}-{later[1]}")
        eventually(lambda: here.courtesy_of("attic"), within_s=6, what="it says so")
        courtesy = here.courtesy_of("attic")
        assert courtesy is not None and courtesy["paused"] is True
        assert "outside its hours" in str(courtesy["reason"])
        refused = httpx.post(
            f"{here.url}/v1/chat/completions", json=ASK, headers={"X-Queue-Timeout": "0.5"}, timeout=20, trust_env=False
        )
        assert refused.status_code == 503
        assert "attic makes a polite pause: outside its hours" in refused.text
        here.agent("cellar")
        assert chat(here.url, "scripted", "hello") == scripted_text("hello", TOKENS)


class Logind:
    """Tells an agent that its PC is about to sleep, and sees that the agent lets it."""

    def __init__(self, bus: FakeBus) -> None:
        self._bus = bus
        self._locks: list[socket.socket] = []
        bus.services["Inhibit"] = self.Inhibit

    def Inhibit(self, *_words: str) -> Answer:  # D-Bus' name
        mine, theirs = socket.socketpair()
        self._locks.append(mine)
        return "h", (theirs.detach(),)

    def sleep(self) -> float:
        """Seconds for which the agent held the PC back."""
        eventually(lambda: any("AddMatch" in call for call in self._bus.calls), within_s=10, what="it listens")
        began_s = time.monotonic()
        manager = ("/org/freedesktop/login1", "org.freedesktop.login1.Manager")
        self._bus.emit(*manager, "PrepareForSleep", "b", True)
        self._locks[-1].settimeout(5)
        assert self._locks[-1].recv(1) == b"", "the lock is let go"
        return time.monotonic() - began_s

    def close(self) -> None:
        for lock in self._locks:
            lock.close()


def own_address() -> str:
    """This PC's address on its network: a node that comes from loopback is on the hub's own PC, and awake."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    for name, addresses in psutil.net_if_addrs().items():
        for one in addresses:
            if name in up and one.family == socket.AF_INET and not one.address.startswith("127."):
                return one.address
    pytest.skip("needs a network card: this machine has nothing but loopback")


@contextmanager
def ear() -> Generator[socket.socket]:
    """Where wake-up packets arrive."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(10)
        yield listener


def test_a_pc_that_sleeps_is_woken_by_a_request_that_only_it_can_serve(tmp_path: Path) -> None:
    address = own_address()
    macs = mac_addresses()
    if not macs:
        pytest.skip("needs a network card: this machine's has no address")
    with fake_bus(tmp_path) as bus, ear() as listener:
        logind = Logind(bus)
        open_to_all = (
            "--host=0.0.0.0",
            "--insecure",
            "--wake-address=127.0.0.1",
            f"--wake-port={listener.getsockname()[1]}",
        )
        with site(tmp_path, *open_to_all) as here:
            port = here.grpc.rpartition(":")[2]
            agent = here.agent("attic", join=f"{address}:{port}", DBUS_SYSTEM_BUS_ADDRESS=bus.address)
            eventually(lambda: here.is_ready("attic"), within_s=10, what="it serves")
            assert logind.sleep() < granted_s(2)
            eventually(lambda: here.state_of("attic") == "asleep", within_s=2, what="the hub knows that it sleeps")
            answers: list[str] = []
            asking = threading.Thread(target=lambda: answers.append(chat(here.url, "scripted", "hello")))
            with frozen(agent):
                time.sleep(2.5)  # a short night
                asking.start()
                assert listener.recv(2048) == magic_packet(macs[0])
            woken_s = time.monotonic()
            eventually(lambda: here.state_of("attic") == "alive", within_s=5, what="it rejoins within 5 s")
            asking.join(timeout=30)
            assert answers == [scripted_text("hello", TOKENS)]
            assert time.monotonic() - woken_s < granted_s(15)
            shown = run_chorus(
                "nodes", "wake", "attic", f"--coordinator={here.grpc}", f"--state-dir={here.chorus.state_dir}"
            )
            assert shown.out.strip() == "attic is here already", shown
        logind.close()


def test_a_process_that_stood_still_for_less_than_its_lease_loses_nothing(tmp_path: Path) -> None:
    with site(tmp_path, "--dead-after-s=8") as here:
        agent = here.agent("attic", "--scripted-tokens-per-s=6")
        eventually(lambda: here.is_ready("attic"), within_s=10, what="it serves")
        with open_stream(here.url, "scripted", "Hello there", max_tokens=TOKENS) as stream:
            stream.read_until(b'"content"', within_s=10)
            with frozen(agent):
                eventually(lambda: here.state_of("attic") == "suspect", within_s=5, what="it is missed")
                time.sleep(3)
            stream.read_until(b"[DONE]", within_s=20)
            assert stream.text == scripted_text("Hello there", TOKENS)
        eventually(lambda: "the coordinator answers, so all goes on" in agent.output, within_s=5, what="it was noticed")


def test_a_process_that_stood_still_for_longer_rejoins_in_time_and_shows_no_ghost_of_its_old_answers(
    tmp_path: Path,
) -> None:
    with site(tmp_path) as here:
        agent = here.agent("attic", "--scripted-tokens-per-s=16")
        eventually(lambda: here.is_ready("attic"), within_s=10, what="it serves")
        with open_stream(here.url, "scripted", "Hello there", max_tokens=TOKENS) as stream:
            stream.read_until(b'"content"', within_s=10)
            with frozen(agent):
                eventually(lambda: here.state_of("attic") == "dead", within_s=10, what="its lease is over")
                stream.read_until(None, within_s=5)
                assert b'"code":"node_lost"' in stream.received
                time.sleep(2)
            eventually(lambda: here.is_ready("attic"), within_s=5, what="it rejoins within 5 s")
        answers = [chat(here.url, "scripted", f"question {number}") for number in range(2)]
        assert answers == [scripted_text(f"question {number}", TOKENS) for number in range(2)]


def test_an_engine_that_is_slow_after_the_sleep_is_flagged_started_again_and_then_fast_again(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        agent = here.agent("attic", "--scripted-tokens-per-s=200")
        eventually(lambda: here.is_ready("attic"), within_s=10, what="it serves")
        for _ in range(3):
            chat(here.url, "scripted", "hello")
        chat(here.url, "scripted", "[[faults tps=20]]")  # from now on as slow as one that lost its GPU
        with frozen(agent):
            time.sleep(2.5)

        def slow() -> dict[str, object] | None:
            replica = here.replica_of("attic")
            return replica if replica.get("degraded") else None

        flagged = eventually(slow, within_s=60, what="it is called degraded")
        assert cast("float", flagged["decode_tokens_per_s"]) < 50, "others are routed by its speed of now"
        eventually(
            lambda: here.is_ready("attic") and here.replica_of("attic").get("degraded") is False,
            within_s=60,
            what="after a restart it is as fast as it was",
        )
        assert "after the PC's sleep it generates" in agent.output


JUMPER = """
import os, time
_real, _path = time.time, os.environ["CLOCK_JUMP"]
def time_() -> float:
    try:
        with open(_path) as file:
            return _real() + float(file.read() or 0)
    except OSError:
        return _real()
time.time = time_
"""
"""For Python's start: a wall clock that is as far off as a file says."""


@pytest.mark.parametrize("days", [1, -1])
def test_a_clock_that_jumps_in_agent_and_hub_breaks_nothing(tmp_path: Path, days: int) -> None:
    jump = tmp_path / "jump"
    (tmp_path / "sitecustomize.py").write_text(JUMPER, encoding="utf-8")
    jumping = {"PYTHONPATH": str(tmp_path), "CLOCK_JUMP": str(jump)}
    with site(tmp_path, **jumping) as here:
        agent = here.agent("attic", "--scripted-tokens-per-s=8", **jumping)
        eventually(lambda: here.is_ready("attic"), within_s=10, what="it serves")
        with open_stream(here.url, "scripted", "Hello there", max_tokens=TOKENS) as stream:
            stream.read_until(b'"content"', within_s=10)
            jump.write_text(str(days * 86_400), encoding="utf-8")
            states: set[object] = set()
            ends_s = time.monotonic() + 2.5  # the leases are shorter, and the answer takes 4 s
            while time.monotonic() < ends_s:
                states.add(here.state_of("attic"))
            stream.read_until(b"[DONE]", within_s=20)
            assert stream.text == scripted_text("Hello there", TOKENS)
        assert states == {"alive"}, "no lease goes by the wall clock"
        assert chat(here.url, "scripted", "hello") == scripted_text("hello", TOKENS)
        if days > 0:
            eventually(lambda: "by its clocks" in agent.output, within_s=10, what="it was noticed and nothing followed")
