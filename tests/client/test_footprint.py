"""What a process really takes: anonymous pages and model files, not program files."""

from __future__ import annotations

import os
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


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: mappings are read from the kernel's own account")
def test_memory_that_this_process_takes_shows_up_and_goes_again() -> None:
    me = [psutil.Process()]
    before = footprint(me)
    assert before is not None
    block = bytearray(os.urandom(64 << 20))
    taken = footprint(me)
    assert taken is not None
    del block
    after = footprint(me)
    assert after is not None
    assert taken.total_bytes - before.total_bytes == pytest.approx(64 << 20, rel=0.1)
    assert after.total_bytes - before.total_bytes < 8 << 20


def test_processes_that_are_gone_have_none() -> None:
    assert footprint([]) is None
