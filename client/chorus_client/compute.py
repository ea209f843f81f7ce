"""On which of this PC's devices its engines compute: what the coordinator is told, and what the pool predicts with."""

from __future__ import annotations

import sys
from dataclasses import replace

from chorus_client.settings import AgentSettings
from chorus_proto.sizing import DeviceKind
from chorus_proto.values import EngineKind, Hardware


def usable_by_engines(hardware: Hardware, settings: AgentSettings, platform: str = sys.platform) -> Hardware:
    """`hardware` with its GPUs marked unusable when no engine of the settings can compute on them."""
    others = set(settings.engines) - {EngineKind.LLAMA_SERVER}
    if others or _llama_server_uses_gpus(settings, platform):
        return hardware
    return replace(hardware, gpus=tuple(replace(gpu, usable=False) for gpu in hardware.gpus))


def device_kind(hardware: Hardware, settings: AgentSettings, platform: str = sys.platform) -> DeviceKind:
    """Where llama-server puts a model's weights; the other engines do not let their memory be predicted."""
    usable = [gpu for gpu in hardware.gpus if gpu.usable]
    if not usable or not _llama_server_uses_gpus(settings, platform):
        return DeviceKind.CPU
    return DeviceKind.SHARED_GPU if all(gpu.shares_host_memory for gpu in usable) else DeviceKind.DISCRETE_GPU


def _llama_server_uses_gpus(settings: AgentSettings, platform: str) -> bool:
    """The bundled builds compute on the CPU, except Apple's on Metal; no layers on the GPU means the CPU too."""
    return settings.gpu_layers != 0 and (settings.llama_server_path is not None or platform == "darwin")
