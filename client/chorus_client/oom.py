"""Did the system end a process for lack of memory? A signal 9 alone may as well be a person's."""

from __future__ import annotations

from pathlib import Path

_VMSTAT = Path("/proc/vmstat")


def kills_so_far(vmstat: Path = _VMSTAT) -> int | None:
    """How many processes the kernel has ended for memory since it started, those in cgroups too (proc(5), `oom_kill`).

    None where the system does not tell.
    """
    try:
        for line in vmstat.read_text("ascii", "replace").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    except (OSError, ValueError):
        return None
    return None
