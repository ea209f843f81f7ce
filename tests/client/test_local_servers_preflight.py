"""Where a server's model will lie, and what is free there."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from chorus_client.hardware import amd, nvidia
from chorus_client.local_servers import preflight
from chorus_client.local_servers.plan import Plan
from chorus_proto.sizing import DeviceKind

GIB = 1 << 30


class WantsGpu:
    wants_gpu = True


@pytest.mark.parametrize(
    ("told", "kind"),
    [((None, 15 * GIB), DeviceKind.DISCRETE_GPU), ((None,), DeviceKind.CPU), ((), DeviceKind.CPU)],
)
def test_integrated_graphics_are_no_card(
    monkeypatch: pytest.MonkeyPatch, told: tuple[int | None, ...], kind: DeviceKind
) -> None:
    monkeypatch.setattr(preflight.sys, "platform", "linux")
    monkeypatch.setattr(nvidia, "free_bytes", lambda: ())
    monkeypatch.setattr(amd, "free_bytes", lambda: told)
    device = asyncio.run(preflight.device_of(cast("Plan", WantsGpu())))
    assert device.kind is kind
    assert (device.free_bytes == 15 * GIB) == (kind is DeviceKind.DISCRETE_GPU)
