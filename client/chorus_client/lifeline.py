"""No orphans: how a child process notices that the agent died, however it died.

Our own Python children call `tie_to_parent` as their first act. External binaries cannot, so this file is also a script
(`python -I -S lifeline.py PARENT_PID PROGRAM ARGUMENT...`, standard library only) that ties itself and then becomes the
program (Linux), or stands beside it and watches (other POSIX systems; Windows uses a job object, see windows_job.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from typing import NoReturn

PARENT_VARIABLE = "CHORUS_PARENT_PID"
"""Set by the agent for its own Python children; their standard input is then a pipe that the agent never writes to."""

_PR_SET_PDEATHSIG = 1


def tie_to_parent() -> None:
    """Die with the process that set `PARENT_VARIABLE`; does nothing in a process that somebody started by hand."""
    parent = os.environ.pop(PARENT_VARIABLE, "")
    if not parent.isdecimal():
        return
    _die_on_parent_death(int(parent))
    _end_with(kept_input())


def kept_input() -> int:
    """Standard input as a descriptor of our own; descriptor 0 is the null device from now on, also for our children.

    A thread that waits in a read of descriptor 0 would hold up everybody else who touches it: on Windows a DLL of numpy
    asks for its status while it is loaded, and would wait for ever (numpy issue 24290).
    """
    kept = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return kept


def _die_on_parent_death(parent_pid: int) -> None:
    """Linux: SIGKILL when the parent's thread that forked us ends (prctl(2)). Elsewhere only checks the parent."""
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    # A parent that died before the call above sends no signal any more. On Windows a launcher may stand between.
    if sys.platform != "win32" and os.getppid() != parent_pid:
        os._exit(1)


def _end_with(descriptor: int) -> None:
    threading.Thread(target=_kill_own_group_at_end_of, args=(descriptor,), name="lifeline", daemon=True).start()


def _kill_own_group_at_end_of(descriptor: int) -> None:
    """Wait for the end of the input, which comes only when the agent let go of it, then end everything."""
    with contextlib.suppress(OSError):
        while os.read(descriptor, 4096):
            pass
    _kill_own_group()


def _kill_own_group() -> NoReturn:
    if sys.platform != "win32" and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _stand_beside(argv: list[str]) -> int:
    """Run `argv` as a child in our process group until it ends or the agent does; return its exit code."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the agent signals the whole group; the program decides
    program = subprocess.Popen(argv, stdin=subprocess.DEVNULL, preexec_fn=_default_sigterm)
    _end_with(0)
    code = program.wait()
    return code if code >= 0 else 128 - code


def _default_sigterm() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def main() -> int:
    parent_pid, argv = int(sys.argv[1]), sys.argv[2:]
    _die_on_parent_death(parent_pid)
    try:
        if sys.platform.startswith("linux"):
            os.execv(argv[0], argv)
        return _stand_beside(argv)
    except OSError as error:
        print(f"{argv[0]} cannot be started: {error.strerror}", file=sys.stderr, flush=True)
        return 127


if __name__ == "__main__":
    sys.exit(main())
