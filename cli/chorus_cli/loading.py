"""How far a model is with its loading or going: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys

from chorus_http.model_status import LoadState, ModelStatus
from chorus_proto.logs import escaped

_LINE_EVERY = 0.1
"""Share of the work for which a line is printed where nobody looks at a bar."""


class Loading:
    """Shows the statuses of one model. Use it as a context."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        self._terminal = sys.stderr.isatty()
        self._told = -1.0
        self._drawn = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=not self._terminal,
        )
        self._row = self._drawn.add_task("", total=1.0)

    def __enter__(self) -> Loading:
        self._drawn.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._drawn.stop()

    def show(self, status: ModelStatus) -> None:
        share = 1.0 if status.is_settled else status.progress
        words = escaped(f"{status.model}: {status.words}")
        self._drawn.update(self._row, description=words, completed=share or 0.0)
        if not self._terminal and (share or 0.0) >= self._told + _LINE_EVERY:
            self._told = share or 0.0
            print(words, file=sys.stderr, flush=True)


def outcome(status: ModelStatus) -> str:
    """`demo-small is loaded on attic: 38.9 MB, 4 slots`-like words; the last line of a load or unload."""
    if status.state is LoadState.LOADED:
        there = [one for one in status.nodes if one.state is LoadState.LOADED]
        return f"{status.model} is loaded on {', '.join(sorted(one.node for one in there))}"
    if status.state is LoadState.UNLOADED:
        return f"{status.model} is loaded nowhere; the next request for it loads it again"
    return f"{status.model}: {status.words}"
