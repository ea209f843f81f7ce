"""A conversation by lines: reads one, obeys it, can be told to stop what it does. What a line means is a subclass's."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from chorus_proto.errors import ClusterError
from chorus_proto.logs import escaped

log = logging.getLogger(__name__)

ReadLine = Callable[[str], Awaitable[str | None]]
"""Shows the prompt and returns the next line without its end; None at the end of the input."""
Write = Callable[[str], None]
"""Gets text with its line ends and must flush by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """What the terminal can do. `live` lets several answers grow side by side."""

    width: int = 80
    colour: bool = False
    live: bool = False


class LineSession(ABC):
    """One person's conversation."""

    def __init__(self, read_line: ReadLine, write: Write, screen: Screen) -> None:
        self._read_line = read_line
        self._write = write
        self._screen = screen
        self._working: asyncio.Task[bool] | None = None
        self._interrupted = False

    @property
    @abstractmethod
    def prompt(self) -> str:
        """What stands before the next line."""

    @abstractmethod
    async def obey(self, line: str) -> bool:
        """Do what `line`, without spaces around it, says; False ends the conversation. Raises ClusterError."""

    async def run(self) -> bool:
        """Obey lines until one ends the conversation (True) or until the end of the input (False)."""
        while (line := await self._read_line(self.prompt)) is not None:
            self._interrupted = False
            self._working = asyncio.create_task(self.handle(line), name="console line")
            try:
                going_on = await self._working
            except asyncio.CancelledError:
                if not self._interrupted:
                    self._working.cancel()
                    await asyncio.gather(self._working, return_exceptions=True)
                    raise
                self._say("cancelled")
                continue
            finally:
                self._working = None
            if not going_on:
                return True
        return False

    def interrupt(self) -> bool:
        """Cancel what is running; False when nothing is."""
        if self._working is None or self._interrupted:
            return False
        self._interrupted = True
        self._working.cancel()
        return True

    async def handle(self, line: str) -> bool:
        """Obey one line. Failures become one line that names the fix."""
        try:
            return await self.obey(line.strip())
        except ClusterError as error:
            self._say(f"error: {error.message}")
        except Exception as error:  # the terminal is an edge: a bug must not take it away
            log.exception("a line failed")
            self._say(f"error: {type(error).__name__}, a bug in Chorus; the log has the details")
        return True

    def _say(self, line: str) -> None:
        """One line, whatever it holds."""
        self._write(escaped(line) + "\n")
