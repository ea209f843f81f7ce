"""Before one more server starts: what runs already, what the new one needs, what is free. Words for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from chorus_client.hardware import amd, nvidia
from chorus_client.hardware.bounded import ask
from chorus_client.hardware.host import ram_available_bytes
from chorus_client.local_servers.plan import Plan
from chorus_client.local_servers.runtime import ServerStatus
from chorus_proto.sizing import DeviceKind, Estimate

_DRIVER_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Where a server's model will lie, and what is free there now."""

    kind: DeviceKind
    free_bytes: int


async def device_of(plan: Plan) -> Device:
    """The GPU's memory for an engine that uses a GPU, else this PC's."""
    if sys.platform == "darwin":
        return Device(kind=DeviceKind.SHARED_GPU, free_bytes=ram_available_bytes())
    if plan.wants_gpu:
        for vendor, question in (("nvidia", nvidia.free_bytes), ("amd", amd.free_bytes)):
            free = await ask(f"free memory of {vendor}", question, _DRIVER_S)
            known = [card_bytes for card_bytes in free or () if card_bytes is not None]
            if known:
                return Device(kind=DeviceKind.DISCRETE_GPU, free_bytes=sum(known))
    return Device(kind=DeviceKind.CPU, free_bytes=ram_available_bytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """One intended start. `running`: the other servers that run now."""

    name: str
    running: Sequence[ServerStatus]
    needs: Estimate
    free_bytes: int

    @property
    def fits(self) -> bool:
        return self.needs.total_bytes <= self.free_bytes

    @property
    def asks(self) -> bool:
        """Whether a person should decide."""
        return bool(self.running) or not self.fits

    def arithmetic(self) -> str:
        """One line: what the running servers hold, what this one needs, what is free."""
        held = [f"{one.name} holds {_size(one.memory_bytes)}" for one in self.running]
        words = f"{self.name} {self.needs.in_words(self.free_bytes)}"
        return "; ".join([*held, words if self.fits else f"{words}: it does not fit"])

    def warning(self, *, encoding: str = "utf-8") -> str:
        """What stands above the question; plain ASCII where `encoding` has no such signs."""
        sign, bullet = "⚠️  ", "•"
        try:
            (sign + bullet).encode(encoding)
        except (UnicodeEncodeError, LookupError):
            sign, bullet = "", "*"
        if self.running:
            lines = [f"{sign}WARNING: The following servers are already running:"]
            lines += [f"  {bullet} {one.name} (port {one.port})" for one in self.running]
            lines += ["", "Running multiple LLM servers simultaneously may cause memory issues."]
        else:
            lines = [f"{sign}WARNING: There is not enough free memory for '{self.name}'."]
        return "\n".join([*lines, self.arithmetic(), ""])

    @property
    def question(self) -> str:
        return f"Are you sure you want to start '{self.name}'?"


def _size(count_bytes: int | None) -> str:
    if count_bytes is None:
        return "an unknown amount"
    return f"{count_bytes / 1e9:.1f} GB" if count_bytes >= 1e9 else f"{count_bytes / 1e6:.1f} MB"
