"""The arithmetic of Windows' tick counts, and what other systems say."""

from __future__ import annotations

import sys

from chorus_client.activity.idle_windows import idle_s, since_s


def test_counts_that_began_anew_are_still_subtracted_right() -> None:
    assert since_s(5_000, 2_000) == 3.0
    assert since_s(1_000, 0xFFFF_FFFF - 999) == 2.0
    assert since_s(7, 7) == 0.0


def test_only_windows_knows() -> None:
    told = idle_s()
    assert (told is not None and told >= 0) if sys.platform == "win32" else told is None
