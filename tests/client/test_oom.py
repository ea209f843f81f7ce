"""Whether the kernel ended something for memory is read from its own count."""

from __future__ import annotations

from pathlib import Path

from chorus_client.oom import kills_so_far


def test_the_kernels_count_is_read(tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 123\noom_kill 7\ndrop_slab 0\n")
    assert kills_so_far(vmstat) == 7


def test_a_system_that_does_not_tell_is_unknown(tmp_path: Path) -> None:
    assert kills_so_far(tmp_path / "none") is None
    (tmp_path / "vmstat").write_text("nr_free_pages 123\n")
    assert kills_so_far(tmp_path / "vmstat") is None
