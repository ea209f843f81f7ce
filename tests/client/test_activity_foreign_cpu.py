"""What others use of the CPU: the sum by played clocks, and once on this very machine."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple, cast

import psutil
import pytest

from chorus_client.activity.family import Family
from chorus_client.activity.foreign_cpu import ForeignCpu

CORES = psutil.cpu_count() or 1


class CpuTimes(NamedTuple):
    """As Linux tells them; other systems have fewer."""

    user: float = 0.0
    system: float = 0.0
    idle: float = 0.0
    iowait: float = 0.0
    steal: float = 0.0
    guest: float = 0.0


class PlayedProcess:
    """One of ours."""

    def __init__(self) -> None:
        self.used_s = 0.0

    def cpu_times(self) -> CpuTimes:
        return CpuTimes(user=self.used_s, system=0.0)


class PlayedPc(Family):
    """Its cores, and our processes on it; `coming` join at the next refresh."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0
        self.times = CpuTimes(user=50.0, idle=1000.0)
        self.ours: dict[int, PlayedProcess] = {1: PlayedProcess()}
        self.refreshes = 0

    def refresh(self) -> None:
        self.refreshes += 1
        self.members = cast("dict[int, psutil.Process]", dict(self.ours))

    def passes(self, seconds: float, *, ours: float, others: float, **waiting: float) -> None:
        """Shares of all cores, 0-1."""
        self.now_s += seconds
        whole_s = seconds * CORES
        next(iter(self.ours.values())).used_s += ours * whole_s
        more = {name: getattr(self.times, name) + share * whole_s for name, share in waiting.items()}
        idle_s = (1 - ours - others - sum(waiting.values())) * whole_s
        self.times = self.times._replace(
            user=self.times.user + (ours + others) * whole_s, idle=self.times.idle + idle_s, **more
        )


@pytest.fixture
def pc() -> PlayedPc:
    return PlayedPc()


def sense(pc: PlayedPc) -> ForeignCpu:
    cpu = ForeignCpu(pc, now_s=lambda: pc.now_s, machine=lambda: pc.times)
    assert cpu.percent() is None, "the first look has nothing to compare with"
    return cpu


def test_our_own_work_is_taken_off_the_machines(pc: PlayedPc) -> None:
    cpu = sense(pc)
    pc.passes(2, ours=0.5, others=0.25)
    assert cpu.percent() == pytest.approx(25)
    pc.passes(4, ours=1, others=0)
    assert cpu.percent() == pytest.approx(0)


def test_waiting_for_disks_and_hosts_is_no_work_and_guests_count_once(pc: PlayedPc) -> None:
    cpu = sense(pc)
    pc.passes(2, ours=0, others=0.2, iowait=0.3, steal=0.4)
    assert cpu.percent() == pytest.approx(20)
    pc.passes(2, ours=0, others=0.2)
    pc.times = pc.times._replace(guest=pc.times.guest + 0.1 * 2 * CORES)  # a part of `user`
    assert cpu.percent() == pytest.approx(20)


def test_an_engine_that_was_just_started_does_not_look_like_somebody_elses(pc: PlayedPc) -> None:
    cpu = sense(pc)
    looked = pc.refreshes
    pc.ours[2] = engine = PlayedProcess()  # nobody has looked at the family since
    pc.passes(2, ours=0, others=0.9)
    engine.used_s = 0.85 * 2 * CORES
    assert cpu.percent() == pytest.approx(5), "the rise made it look again"
    assert pc.refreshes == looked + 1


def test_an_old_process_that_is_found_late_hides_others_for_one_look_and_accuses_nobody(pc: PlayedPc) -> None:
    cpu = sense(pc)
    pc.ours[2] = old = PlayedProcess()
    old.used_s = 1000.0
    pc.passes(30, ours=0, others=0.5)
    assert cpu.percent() == 0
    pc.passes(2, ours=0, others=0.5)
    assert cpu.percent() == pytest.approx(50)


def test_it_looks_again_at_each_rise_and_otherwise_only_now_and_then(pc: PlayedPc) -> None:
    cpu = sense(pc)
    for others in (0.3, 0.3, 0.35, 0.3):
        pc.passes(2, ours=0, others=others)
        assert cpu.percent() == pytest.approx(100 * others)
    assert pc.refreshes == 2, "at the first look, and at the rise from nothing to 30 %"
    pc.passes(2, ours=0, others=0.6)
    cpu.percent()
    assert pc.refreshes == 3
    pc.passes(60, ours=0, others=0.6)
    cpu.percent()
    assert pc.refreshes == 4


def test_a_process_of_ours_that_went_makes_the_look_worthless(pc: PlayedPc) -> None:
    pc.ours[2] = PlayedProcess()
    cpu = sense(pc)
    del pc.ours[2]
    pc.refresh()
    pc.passes(2, ours=0.1, others=0)
    assert cpu.percent() is None
    pc.passes(2, ours=0.1, others=0)
    assert cpu.percent() == pytest.approx(0)


@contextmanager
def burner() -> Generator[psutil.Process]:
    """One core of real work."""
    with subprocess.Popen([sys.executable, "-c", "import os\nwhile True: os.urandom(1 << 16)"]) as one:
        try:
            yield psutil.Process(one.pid)
        finally:
            one.kill()


class Strangers(Family):
    """Nobody is ours."""

    def refresh(self) -> None:
        self.members = {}


def test_a_real_program_is_seen() -> None:
    cpu = ForeignCpu(Strangers())
    with burner() as one:
        time.sleep(0.2)  # it has begun
        before, began_s = one.cpu_times(), time.monotonic()
        cpu.percent()
        time.sleep(0.5)
        percent = cpu.percent()
        after, ended_s = one.cpu_times(), time.monotonic()
    its_own = 100 * (after.user + after.system - before.user - before.system) / (CORES * (ended_s - began_s))
    assert percent is not None
    # Others may work here too, so there is no upper bound but the whole machine.
    assert 0.7 * its_own <= percent <= 100
