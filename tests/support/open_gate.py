"""A way into memory for tests whose engines need none."""

from __future__ import annotations

import tempfile
from pathlib import Path

from chorus_client.hardware import LiveReader
from chorus_client.memory_gate import MemoryGate
from chorus_client.preflight import Reserve
from chorus_proto.sizing import DeviceKind
from chorus_proto.values import Hardware


def open_gate() -> MemoryGate:
    """Judges by this PC's real free memory; what it learns goes to a folder that nobody reads."""
    hardware = Hardware(os="linux", arch="x86_64")
    folder = Path(tempfile.gettempdir()) / "chorus-test-gate"
    return MemoryGate(hardware, LiveReader(hardware), DeviceKind.CPU, folder, reserve=Reserve())
