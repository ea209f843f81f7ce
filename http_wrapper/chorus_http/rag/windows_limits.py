"""Windows' limits for a child process: a job object (Win32 `SetInformationJobObject`, JOBOBJECT_EXTENDED_LIMIT_...)."""

from __future__ import annotations

import ctypes
import sys

_EXTENDED_LIMIT_INFORMATION = 9
_PROCESS_TIME = 0x0002
_ACTIVE_PROCESS = 0x0008
_PROCESS_MEMORY = 0x0100
_KILL_ON_JOB_CLOSE = 0x2000
_SET_QUOTA_AND_TERMINATE = 0x0100 | 0x0001
_HUNDRED_NS_PER_S = 10_000_000


class _BasicLimits(ctypes.Structure):
    _fields_ = (
        ("per_process_user_time_limit", ctypes.c_int64),
        ("per_job_user_time_limit", ctypes.c_int64),
        ("limit_flags", ctypes.c_uint32),
        ("minimum_working_set_size", ctypes.c_size_t),
        ("maximum_working_set_size", ctypes.c_size_t),
        ("active_process_limit", ctypes.c_uint32),
        ("affinity", ctypes.c_size_t),
        ("priority_class", ctypes.c_uint32),
        ("scheduling_class", ctypes.c_uint32),
    )


class _ExtendedLimits(ctypes.Structure):
    _fields_ = (
        ("basic", _BasicLimits),
        ("io_counters", ctypes.c_uint64 * 6),
        ("process_memory_limit", ctypes.c_size_t),
        ("job_memory_limit", ctypes.c_size_t),
        ("peak_process_memory_used", ctypes.c_size_t),
        ("peak_job_memory_used", ctypes.c_size_t),
    )


class LimitedJob:
    """A job that holds one child, without children of its own. Raises OSError when Windows refuses."""

    def __init__(self, pid: int, *, memory_bytes: int, cpu_s: float) -> None:
        if sys.platform != "win32":
            raise OSError("job objects exist on Windows only")
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.CreateJobObjectW.restype = ctypes.c_void_p
        kernel.OpenProcess.restype = ctypes.c_void_p
        self._kernel = kernel
        self._handle: int | None = kernel.CreateJobObjectW(None, None)
        if not self._handle:
            raise ctypes.WinError(ctypes.get_last_error())
        limits = _ExtendedLimits()
        limits.basic.limit_flags = _PROCESS_TIME | _ACTIVE_PROCESS | _PROCESS_MEMORY | _KILL_ON_JOB_CLOSE
        limits.basic.per_process_user_time_limit = int(cpu_s * _HUNDRED_NS_PER_S)
        limits.basic.active_process_limit = 1
        limits.process_memory_limit = memory_bytes
        process = kernel.OpenProcess(_SET_QUOTA_AND_TERMINATE, False, pid)
        job = ctypes.c_void_p(self._handle)
        tied = (
            process
            and kernel.SetInformationJobObject(
                job, _EXTENDED_LIMIT_INFORMATION, ctypes.byref(limits), ctypes.sizeof(limits)
            )
            and kernel.AssignProcessToJobObject(job, ctypes.c_void_p(process))
        )
        error = ctypes.get_last_error()
        if process:
            kernel.CloseHandle(ctypes.c_void_p(process))
        if not tied:
            self.close()
            raise ctypes.WinError(error)

    def close(self) -> None:
        """Let go of the job, which ends its process. A second call does nothing."""
        if sys.platform == "win32" and self._handle:
            self._kernel.CloseHandle(ctypes.c_void_p(self._handle))
            self._handle = None
