"""What a process really takes: anonymous pages and model files, not program files."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from chorus_client.footprint import Resident, footprint, of_smaps

SMAPS = """55d0a0000000-55d0a0010000 r-xp 00000000 fd:00 11 /usr/lib/libllama.so
Size:                 64 kB
Rss:                  64 kB
Anonymous:             4 kB
7f0000000000-7f0000100000 r--s 00000000 fd:00 12 /models/my model.gguf
Size:               1024 kB
Rss:                 512 kB
Anonymous:             0 kB
7f0000200000-7f0000300000 rw-p 00000000 00:00 0
Size:               1024 kB
Rss:                 256 kB
Anonymous:           256 kB
VmFlags: rd wr
"""


def test_anonymous_pages_and_mapped_models_count_and_program_files_do_not() -> None:
    assert of_smaps(SMAPS) == Resident(total_bytes=(4 + 512 + 256) * 1024, mapped_bytes=512 * 1024)


TAKER = """
import sys
for line in sys.stdin:
    held = bytearray([1]) * (64 << 20) if line.strip() == "take" else b""
    print("done", flush=True)
"""
"""Takes memory and gives it back as it is told; does nothing else, so that what it has is what it was told to take."""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: mappings are read from the kernel's own account")
def test_memory_that_a_process_takes_shows_up_and_goes_again() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as it:

        def told(word: str) -> int:
            assert it.stdin is not None and it.stdout is not None
            print(word, file=it.stdin, flush=True)
            assert it.stdout.readline() == "done\n"
            taken = footprint([psutil.Process(it.pid)])
            assert taken is not None
            return taken.total_bytes

        with_it = told("take")
        without = told("give back")
        assert with_it - without == pytest.approx(64 << 20, rel=0.02)
        assert told("take") - without == pytest.approx(64 << 20, rel=0.02)


def test_processes_that_are_gone_have_none() -> None:
    assert footprint([]) is None
