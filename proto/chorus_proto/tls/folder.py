"""Where certificates and secrets lie: a folder for its owner alone. Apart from `authority.py`, whose library takes 8 MB
of memory and which nobody but the hub needs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from chorus_proto.settings import SettingsError

FOLDER = "tls"
"""In the state folder."""

Run = Callable[[Sequence[str]], object]


def private_folder(path: Path, *, windows: bool = sys.platform == "win32", run: Run | None = None) -> Path:
    """Make a folder that only its owner, and the system's administrators, can look into. Raises SettingsError."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if windows:
            # Modes mean nothing there. S-1-3-4 is whoever owns the file, S-1-5-18 the system, S-1-5-32-544 its
            # administrators; files made inside inherit it.
            grants = [
                word for sid in ("S-1-3-4", "S-1-5-18", "S-1-5-32-544") for word in ("/grant:r", f"*{sid}:(OI)(CI)F")
            ]
            (run or _run)(["icacls", str(path), "/inheritance:r", *grants, "/q"])
        elif path.stat().st_mode & 0o077:
            path.chmod(0o700)
    except (OSError, subprocess.SubprocessError) as error:
        raise SettingsError(f"{path} cannot be kept from other users of this PC: {error}") from None
    return path


def _run(command: Sequence[str]) -> None:
    system = Path(os.environ.get("SYSTEMROOT", r"C:\Windows")) / "System32"
    program, *arguments = command
    subprocess.run([str(system / f"{program}.exe"), *arguments], check=True, capture_output=True, timeout=10)
