from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
import time
from pathlib import Path

import psutil
import pytest

from chorus_client.hardware import LiveReader, LiveReadings, amd, apple, fingerprint, host, live, nvidia, probe, windows
from chorus_client.hardware.bounded import ask
from chorus_client.hardware.known_gpus import known_gpu
from chorus_proto.values import Gpu, Hardware

GIB = 1 << 30


def test_the_probe_finds_this_pc(tmp_path: Path) -> None:
    found = asyncio.run(probe(tmp_path / "not" / "there" / "yet"))
    assert found.os
    assert found.arch
    assert found.logical_cores == psutil.cpu_count()
    assert found.ram_bytes is not None
    assert 0 < found.ram_bytes <= psutil.virtual_memory().total
    assert found.ram_available_bytes is not None
    assert found.ram_available_bytes <= found.ram_bytes
    assert found.disk_free_bytes is not None
    assert found.fingerprint == fingerprint(found)


def test_a_failing_and_a_hanging_gpu_probe_cost_one_line_each_and_never_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()

    def fails() -> tuple[Gpu, ...]:
        raise OSError("driver says no")

    def hangs() -> tuple[Gpu, ...]:
        release.wait(30)
        return ()

    def works() -> tuple[Gpu, ...]:
        return (Gpu(name="card"),)

    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        probes = {"first": fails, "second": hangs, "third": works}
        found = asyncio.run(probe(tmp_path, gpu_probes=probes, within_s=0.5))
    release.set()
    assert time.monotonic() - started < 10
    assert found.gpus == (Gpu(name="card"),)
    assert found.ram_bytes is not None
    assert sorted(record.getMessage() for record in caplog.records) == [
        "hardware probe first: left out: driver says no",
        "hardware probe second: no answer within 0.5 s, left out",
    ]


def test_an_answer_that_comes_after_the_end_of_the_loop_disturbs_nobody() -> None:
    release = threading.Event()
    late: list[threading.Thread] = []

    def slow() -> None:
        late.append(threading.current_thread())
        release.wait(30)

    assert asyncio.run(ask("slow", slow, 0.05)) is None
    release.set()
    late[0].join(timeout=10)
    assert not late[0].is_alive()


def test_no_nvidia_driver_means_no_nvidia_gpus() -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("this PC has an NVIDIA driver")
    assert nvidia.gpus() == ()
    assert nvidia.free_bytes() == ()


def test_the_cpu_model_is_found_on_x86_and_on_arm_boards() -> None:
    assert host.cpu_model_in("processor: 0\nmodel name\t: AMD EPYC 7B13\nflags: x\n") == "AMD EPYC 7B13"
    assert (
        host.cpu_model_in("processor : 0\nModel : Raspberry Pi 5 Model B Rev 1.0\n") == "Raspberry Pi 5 Model B Rev 1.0"
    )
    assert host.cpu_model_in("nothing here") is None


def test_a_containers_limit_is_respected(tmp_path: Path) -> None:
    assert host.cgroup_limit_bytes(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    assert host.cgroup_limit_bytes(tmp_path) is None
    (tmp_path / "memory.max").write_text("2147483648\n")
    assert host.cgroup_limit_bytes(tmp_path) == 2 * GIB
    (tmp_path / "memory.current").write_text("1000000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 400000\n")
    assert host.cgroup_used_bytes(tmp_path) == 600_000


def test_the_old_cgroups_limit_counts_and_its_number_for_no_limit_does_not(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    limit = tmp_path / "memory" / "memory.limit_in_bytes"
    limit.write_text("9223372036854771712\n")
    assert host.cgroup_limit_bytes(tmp_path) is None
    limit.write_text("1073741824\n")
    assert host.cgroup_limit_bytes(tmp_path) == GIB


def amd_card(root: Path, name: str, *, vendor: str = "0x1002", total: int = 12 * GIB) -> None:
    device = root / name / "device"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "device").write_text("0x73df\n")
    (device / "mem_info_vram_total").write_text(f"{total}\n")
    (device / "mem_info_vram_used").write_text(f"{GIB}\n")
    (device / "pp_dpm_mclk").write_text("0: 96Mhz\n1: 1000Mhz *\n")


def test_amd_cards_are_read_from_sysfs_and_others_left_alone(tmp_path: Path) -> None:
    amd_card(tmp_path, "card0", vendor="0x8086")
    amd_card(tmp_path, "card1")
    amd_card(tmp_path, "card1-DP-1")
    (found,) = amd.gpus(tmp_path)
    assert (found.vendor, found.memory_bytes, found.memory_free_bytes) == ("amd", 12 * GIB, 11 * GIB)
    assert found.bandwidth_bytes_per_s == 256e9
    assert amd.free_bytes(tmp_path) == (11 * GIB,)


@pytest.mark.parametrize("nvidia_tells", [True, False])
def test_each_gpu_has_its_own_figure_whoever_else_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nvidia_tells: bool
) -> None:
    monkeypatch.setattr(live, "_DRIVER_S", 30.0)
    amd_card(tmp_path, "card0", total=512 << 20)
    amd_card(tmp_path, "card1", total=16 * GIB)
    geforce = Gpu(name="GeForce", vendor="nvidia", memory_bytes=8 * GIB, memory_free_bytes=7 * GIB)
    hardware = Hardware(os="Linux", arch="x86_64", gpus=(geforce, *amd.gpus(tmp_path)))
    drivers = {"nvidia": lambda: (6 * GIB,) if nvidia_tells else (), "amd": lambda: amd.free_bytes(tmp_path)}

    readings = asyncio.run(LiveReader(hardware, drivers=drivers).read())
    assert readings.gpu_free_bytes == (6 * GIB if nvidia_tells else None, None, 15 * GIB)
    # A heartbeat has no sign for "unknown": it says the free memory of every card or of none.
    assert readings.told_of(hardware.gpus) == ((6 * GIB, 0, 15 * GIB) if nvidia_tells else ())


def test_a_pc_without_cards_tells_of_none() -> None:
    graphics = Gpu(name="Apple M4", vendor="apple", shares_host_memory=True)
    assert LiveReadings(gpu_free_bytes=(None,)).told_of((graphics,)) == ()


def test_an_integrated_amd_gpu_shares_the_hosts_memory(tmp_path: Path) -> None:
    amd_card(tmp_path, "card0", total=GIB // 2)
    (found,) = amd.gpus(tmp_path)
    assert found.shares_host_memory
    assert found.memory_bytes is None


def test_no_amd_driver_means_no_amd_gpus(tmp_path: Path) -> None:
    assert amd.gpus(tmp_path / "none") == ()


def test_an_apple_chip_has_its_wired_limit_and_its_bandwidth() -> None:
    answers = {"machdep.cpu.brand_string": "Apple M2 Pro", "hw.memsize": str(32 * GIB), "iogpu.wired_limit_mb": "0"}
    (found,) = apple.gpus("darwin", answers.get)
    assert found.shares_host_memory
    assert found.memory_bytes == 32 * GIB * 2 // 3
    assert found.bandwidth_bytes_per_s == 200e9
    assert apple.gpus("linux", answers.get) == ()
    answers["machdep.cpu.brand_string"] = "Intel(R) Core(TM) i7"
    assert apple.gpus("darwin", answers.get) == ()


@pytest.mark.parametrize(
    ("ram_gib", "setting", "expected_gib"), [(64, None, 48), (64, "0", 48), (64, "57344", 56), (8, "99999", 8)]
)
def test_the_owners_wired_limit_comes_before_the_systems(
    ram_gib: int, setting: str | None, expected_gib: float
) -> None:
    assert apple.wired_limit_bytes(ram_gib * GIB, setting) == expected_gib * GIB


def test_windows_adapters_of_amd_and_intel_are_taken_once_with_their_whole_memory() -> None:
    adapters = [
        ("AMD Radeon RX 7900 XTX", 24 * GIB),
        ("AMD Radeon RX 7900 XTX", 24 * GIB),
        ("NVIDIA GeForce RTX 3060", 12 * GIB),
        ("Intel(R) UHD Graphics 770", 128 << 20),
        ("Microsoft Basic Display Adapter", None),
    ]
    card, integrated = windows.gpus(lambda: adapters)
    assert (card.vendor, card.memory_bytes, card.bandwidth_bytes_per_s) == ("amd", 24 * GIB, 960e9)
    assert (integrated.vendor, integrated.shares_host_memory, integrated.memory_bytes) == ("intel", True, None)


@pytest.mark.parametrize(
    ("name", "gigabytes_per_s"),
    [
        ("NVIDIA GeForce RTX 3060", 360),
        ("NVIDIA GeForce RTX 3060 Ti", 448),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 576),
        ("NVIDIA H100 80GB HBM3", 3350),
        ("Apple M4", 120),
        ("Apple M4 Max", 546),
    ],
)
def test_gpus_are_known_by_the_names_their_drivers_give(name: str, gigabytes_per_s: float) -> None:
    known = known_gpu(name)
    assert known is not None
    assert known.bandwidth_bytes_per_s == gigabytes_per_s * 1e9


def test_a_gpu_nobody_knows_is_not_guessed() -> None:
    assert known_gpu("Voodoo 2") is None


def test_the_fingerprint_stays_while_the_pc_does() -> None:
    pc = Hardware(
        os="Linux", arch="x86_64", cpu_model="x", ram_bytes=16 * GIB, gpus=(Gpu(name="a", memory_bytes=8 * GIB),)
    )
    now = dataclasses.replace(
        pc, ram_available_bytes=1, disk_free_bytes=2, ram_bytes=16 * GIB - (20 << 20), cpu_flops_per_s=3.0
    )
    now = dataclasses.replace(now, gpus=(Gpu(name="a", memory_bytes=8 * GIB, memory_free_bytes=4),))
    assert fingerprint(now) == fingerprint(pc)
    assert len(fingerprint(pc)) == 16


def test_the_fingerprint_changes_with_memory_cpu_or_gpu() -> None:
    pc = Hardware(os="Linux", arch="x86_64", cpu_model="x", ram_bytes=16 * GIB)
    others = [
        dataclasses.replace(pc, ram_bytes=32 * GIB),
        dataclasses.replace(pc, cpu_model="y"),
        dataclasses.replace(pc, gpus=(Gpu(name="a"),)),
    ]
    assert len({fingerprint(one) for one in (pc, *others)}) == 4


def test_live_readings_are_true_and_cheap() -> None:
    async def read_often() -> float:
        reader = LiveReader(Hardware(os="Linux", arch="x86_64"))
        first = await reader.read()
        assert first.ram_available_bytes is not None
        assert 0 < first.ram_available_bytes <= psutil.virtual_memory().total
        assert first.gpu_free_bytes == ()
        started = time.process_time()
        for _ in range(99):
            await reader.read()
        reading = await reader.read()
        assert reading.cpu_percent is not None
        assert 0 <= reading.cpu_percent <= 100 * (psutil.cpu_count() or 1)
        return (time.process_time() - started) / 100

    assert asyncio.run(read_often()) < 0.001
