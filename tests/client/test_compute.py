from __future__ import annotations

from pathlib import Path

import pytest

from chorus_client.compute import device_kind, usable_by_engines
from chorus_client.settings import AgentSettings
from chorus_proto.sizing import DeviceKind
from chorus_proto.values import EngineKind, Gpu, Hardware

CARD = Gpu(name="GeForce")
UNUSABLE = Gpu(name="GeForce", usable=False)
INTEGRATED = Gpu(name="Iris", shares_host_memory=True)
EXTERNAL = Path("/opt/llama-server")


def kind(*gpus: Gpu, layers: int | None = None, path: Path | None = EXTERNAL, platform: str = "linux") -> DeviceKind:
    settings = AgentSettings(llama_server_path=path, gpu_layers=layers)
    hardware = usable_by_engines(Hardware(os=platform, arch="x86_64", gpus=gpus), settings, platform)
    return device_kind(hardware, settings, platform)


def test_an_external_llama_server_computes_on_the_card_unless_no_layers_go_there() -> None:
    assert kind(CARD) is DeviceKind.DISCRETE_GPU
    assert kind(CARD, layers=99) is DeviceKind.DISCRETE_GPU
    assert kind(CARD, layers=0) is DeviceKind.CPU


def test_a_gpu_that_no_engine_can_use_is_none() -> None:
    assert kind(UNUSABLE, layers=99) is DeviceKind.CPU
    assert kind(layers=99) is DeviceKind.CPU


def test_graphics_in_the_hosts_memory_are_told_apart_from_a_card() -> None:
    assert kind(INTEGRATED) is DeviceKind.SHARED_GPU
    assert kind(INTEGRATED, CARD) is DeviceKind.DISCRETE_GPU
    assert kind(INTEGRATED, UNUSABLE) is DeviceKind.SHARED_GPU


def test_the_bundled_engine_computes_on_the_cpu_except_on_a_mac() -> None:
    assert kind(CARD, path=None) is DeviceKind.CPU
    assert kind(INTEGRATED, path=None, platform="darwin") is DeviceKind.SHARED_GPU
    assert kind(INTEGRATED, path=None, platform="darwin", layers=0) is DeviceKind.CPU


@pytest.mark.parametrize(
    ("engines", "layers", "usable"),
    [
        ((EngineKind.LLAMA_SERVER,), None, True),
        ((EngineKind.LLAMA_SERVER,), 0, False),
        ((EngineKind.LLAMA_SERVER, EngineKind.OLLAMA), 0, True),
    ],
)
def test_the_coordinator_is_told_of_gpus_that_some_engine_uses(
    engines: tuple[EngineKind, ...], layers: int | None, usable: bool
) -> None:
    settings = AgentSettings(engines=engines, gpu_layers=layers, llama_server_path=EXTERNAL)
    hardware = usable_by_engines(Hardware(os="linux", arch="x86_64", gpus=(CARD,)), settings, "linux")
    assert [gpu.usable for gpu in hardware.gpus] == [usable]
