"""Starts a program that outlives its starter: `python -I -S detach.py ERRORS PROGRAM ARGUMENT...`.

A process in between, which ends at once: the program's parent is then the system, so that nobody who lives on has to
collect its exit code, and a Ctrl+C in the terminal does not reach it. ERRORS is a file for what it
prints. Standard library only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def main() -> int:
    errors, argv = Path(sys.argv[1]), sys.argv[2:]
    errors.touch(mode=0o600)
    with errors.open("wb") as output:
        process = _started(argv, output.fileno())
    print(process.pid, flush=True)
    # The interpreter's own end would complain of a child that still runs.
    os._exit(0)


def _started(argv: list[str], output: int) -> subprocess.Popen[bytes]:
    if sys.platform != "win32":
        return subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, close_fds=True
        )
    flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
    for more in (subprocess.CREATE_BREAKAWAY_FROM_JOB, 0):
        try:
            return subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, creationflags=flags | more
            )
        except PermissionError:
            # The terminal's job lets nobody out; then the program may end with it.
            if not more:
                raise
    raise AssertionError("unreachable")


if __name__ == "__main__":
    sys.exit(main())
