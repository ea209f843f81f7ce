"""Takes rights away from the process that reads documents: what a parser never needs, a hostile document cannot use.

Python's audit hooks (PEP 578) refuse, on every system, what its own libraries would do for it: to open a file that is
no part of an import, any network, any other process. The parsers are Python, so nothing of theirs goes around them;
what a flaw in a native library might do is bounded by the limits of the process.
"""

from __future__ import annotations

import contextlib
import os
import sys

from chorus_http.rag.parsers.outcome import ParseLimits

_FILES = 32
"""For modules that are imported late."""
_REFUSED = (
    *("socket.", "subprocess.", "ctypes.dlopen", "pty.", "shutil.", "winreg.", "urllib.", "ftplib.", "http.", "mmap."),
    *("os.exec", "os.fork", "os.spawn", "os.posix_spawn", "os.system", "os.startfile", "os.kill", "os.putenv"),
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.ch", "os.utime"),
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def confine(limits: ParseLimits) -> None:
    """For the rest of this process. Where a system lacks a limit, the parent's own (time, job object) remain."""
    _limit(limits)
    roots = tuple({os.path.realpath(root) + os.sep for root in (*sys.path, sys.prefix, sys.base_prefix) if root})

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & _WRITING
            if writes or not isinstance(path, str) or not os.path.realpath(path).startswith(roots):
                raise PermissionError("a parser opens no files")
        elif event.startswith(_REFUSED):
            raise PermissionError(f"a parser has no use for {event}")

    sys.addaudithook(refuse)


def allow_cpu_s(seconds: int) -> None:
    """From now on; the kernel ends the process that takes more."""
    if sys.platform == "win32":
        return
    import resource  # POSIX only

    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + seconds
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _limit(limits: ParseLimits) -> None:
    if sys.platform == "win32":
        return
    import resource  # POSIX only

    with contextlib.suppress(OSError):
        os.nice(10)
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, limits.written_file_bytes),
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, _FILES),
    ):
        with contextlib.suppress(OSError, ValueError):  # macOS refuses RLIMIT_AS
            resource.setrlimit(what, (most, most))
