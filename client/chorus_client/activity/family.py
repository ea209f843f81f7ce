"""Which processes of this PC are Chorus's: this agent, other parts of Chorus on the same PC, and all they started.

A hub, a second agent or a model server beside this agent is no owner's program that would have to be left in peace.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import psutil

_PROGRAMS = ("chorus", "chorus-llama-server")
_PACKAGES = ("chorus_cli", "chorus_client")


def is_chorus(command_line: Sequence[str]) -> bool:
    """Whether a command line is one of ours; only its first words say so."""
    for word in command_line[:5]:
        if word.partition(".")[0] in _PACKAGES or PurePath(word).name.removesuffix(".exe") in _PROGRAMS:
            return True
    return False


@dataclass(slots=True)
class _Judged:
    ours: bool
    final: bool = False


class Family:
    """`members` as of the last `refresh`. `also`: names of other programs that compute for us, such as ollama."""

    def __init__(self, also: Iterable[str] = ()) -> None:
        self._also = tuple(name.lower() for name in also)
        self._judged: dict[psutil.Process, _Judged] = {}
        self.members: dict[int, psutil.Process] = {}

    def refresh(self) -> None:
        """Look at every process. Blocks for some milliseconds, more on a PC with very many processes."""
        judged: dict[psutil.Process, _Judged] = {}
        members: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            known = judged[process] = self._judge_again(process)
            if (known.ours or process.pid == os.getpid()) and process.pid not in members:
                # Gone, or its number is somebody else's by now: then it is not ours.
                with contextlib.suppress(psutil.Error):
                    members |= {one.pid: one for one in (process, *process.children(recursive=True))}
        self._judged = judged
        self.members = members

    def _judge_again(self, process: psutil.Process) -> _Judged:
        """Twice for each process: at the first look it may not have become yet what it will be (fork and exec)."""
        known = self._judged.get(process)
        if known is None:
            return _Judged(self._is_root(process))
        return known if known.final else _Judged(self._is_root(process), final=True)

    def _is_root(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            name = process.name().lower()
            if self._also and name.startswith(self._also):
                return True
            if "python" in name or "chorus" in name:
                return is_chorus(process.cmdline())
        return False
