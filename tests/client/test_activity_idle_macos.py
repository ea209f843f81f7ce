"""What macOS, and every other system, says of the last input."""

from __future__ import annotations

import sys

from chorus_client.activity.idle_macos import idle_s


def test_only_macos_knows() -> None:
    told = idle_s()
    assert (told is not None and told >= 0) if sys.platform == "darwin" else told is None
