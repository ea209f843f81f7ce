"""Opting in to the tests on a `llama-server` that Chorus does not bring: they run only where `VARIABLE` is set.

`1` builds it from source on the first run (tools/real_llama_server.py) and takes it out of the cache later; anything
else is the path of a llama-server.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tools.real_llama_server import cache_folder, default_jobs, real_llama_server

VARIABLE = "CHORUS_TEST_REAL_LLAMA_SERVER"
_BUILD_IT = "1"
_BUILD_WITHIN_S = 3 * 3600.0
_TEST_WITHIN_S = 120.0


def chosen() -> str:
    """What the person who runs the tests wants; empty: not these tests."""
    return os.environ.get(VARIABLE, "").removeprefix("0")


def marks() -> list[pytest.MarkDecorator]:
    """For a module whose tests all need it. A build counts into the time of the first test."""
    reason = f"needs an external llama-server: set {VARIABLE} to 1 or to its path"
    limit_s = _BUILD_WITHIN_S if chosen() == _BUILD_IT else _TEST_WITHIN_S
    return [pytest.mark.skipif(not chosen(), reason=reason), pytest.mark.timeout(limit_s)]


def program() -> Path:
    """The binary; built when that is wanted. Raises BuildFailed; fails the test when the path leads nowhere."""
    if chosen() == _BUILD_IT:
        return real_llama_server(cache_folder(os.environ, sys.platform, Path.home()), jobs=default_jobs())
    path = Path(chosen()).expanduser().absolute()
    assert os.access(path, os.X_OK), f"{VARIABLE} = {chosen()}: there is no program"
    return path
