"""What is asked of paths of files that somebody else named."""

from __future__ import annotations

import os
from pathlib import Path


def leads_out(path: Path, folder: Path) -> bool:
    """Whether `path`, every link followed, lies outside `folder`. A link that leads to itself leads nowhere.

    Not by `Path.resolve`, which raises RuntimeError for such a link before Python 3.13.
    """
    return not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def text_of(path: Path) -> str:
    """The path as text that JSON can hold: a byte of a name that is not UTF-8 becomes an escape, as `\\udce8`."""
    return str(path).encode(errors="backslashreplace").decode()
