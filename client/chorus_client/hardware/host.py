"""CPU model and memory of this PC on Linux, macOS and Windows, containers' limits included."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


def cpu_model() -> str | None:
    """The CPU's name as its maker writes it, or None where the system does not tell."""
    if sys.platform == "darwin":
        return sysctl("machdep.cpu.brand_string")
    if sys.platform == "win32":
        return _windows_cpu_model()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or None
    return cpu_model_in(text) or platform.processor() or None


def cpu_model_in(cpuinfo: str) -> str | None:
    """The name in the text of /proc/cpuinfo; ARM boards write it under `Model`, x86 under `model name`."""
    fields = [line.partition(":") for line in cpuinfo.splitlines()]
    for wanted in ("model name", "Model", "Hardware"):
        for key, _, value in fields:
            if key.strip() == wanted and value.strip():
                return value.strip()
    return None


def _windows_cpu_model() -> str | None:
    if sys.platform != "win32":
        return None
    import winreg

    path = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
    with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path) as key:
        name = winreg.QueryValueEx(key, "ProcessorNameString")[0]
    return str(name).strip() or None


def sysctl(name: str) -> str | None:
    """A value of macOS's sysctl, or None when it has no such value."""
    done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=2, check=False)
    return done.stdout.strip() or None if done.returncode == 0 else None


def ram_bytes() -> int:
    """Memory that this process and its children may use: the PC's, or less where a container limits it."""
    total = psutil.virtual_memory().total
    limit = cgroup_limit_bytes()
    return total if limit is None else min(total, limit)


def ram_available_bytes() -> int:
    """What of `ram_bytes` is free now without swapping."""
    available = psutil.virtual_memory().available
    limit = cgroup_limit_bytes()
    used = cgroup_used_bytes()
    return available if limit is None or used is None else max(0, min(available, limit - used))


def cgroup_limit_bytes(root: Path = _CGROUP) -> int | None:
    """The container's memory limit (cgroup v2, else v1), or None without one."""
    # v1 writes a number near 2**63 for no limit.
    found = _number_in(root / "memory.max") or _number_in(root / "memory" / "memory.limit_in_bytes")
    return found if found is not None and found < 1 << 60 else None


def cgroup_used_bytes(root: Path = _CGROUP) -> int | None:
    """What the container uses, less the file cache that the kernel gives back when memory is short."""
    used = _number_in(root / "memory.current") or _number_in(root / "memory" / "memory.usage_in_bytes")
    if used is None:
        return None
    for place in (root / "memory.stat", root / "memory" / "memory.stat"):
        for line in _text_of(place).splitlines():
            key, _, value = line.partition(" ")
            if key in ("inactive_file", "total_inactive_file") and value.isdigit():
                return max(0, used - int(value))
    return used


def _number_in(path: Path) -> int | None:
    text = _text_of(path).strip()
    return int(text) if text.isdigit() else None


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
