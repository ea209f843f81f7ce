"""Logging of every process: one line a record, no control characters, no keys, bounded in rate and on disk.

What remote programs and people send ends up in messages, so a record must not be able to forge a second one or to
drive the terminal, and an endless complaint must not fill the disk.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO

from chorus_proto.clock import Clock, SystemClock
from chorus_proto.settings import SettingsError

LEVELS = ("debug", "info", "warning", "error", "critical")

LINES_PER_S = 100
"""Per logger; the rest is counted and the count is logged."""
FILE_BYTES = 10 * 2**20
FILES = 10
MESSAGE_CHARACTERS = 16 * 1024


def configure(
    level: str, *, stream: TextIO, file: Path | None, clock: Clock | None = None, file_level: str | None = None
) -> Callable[[], None]:
    """Send every record at `level` or above to `stream` and, when given, to `file` (10 files of 10 MiB at most).

    `file_level` lets the file hold more, or less, than the stream. Replaces what an earlier call set up. Returns what
    takes it down again. Raises SettingsError for an unknown level or a file that cannot be written.
    """
    for one in (level, file_level or level):
        if one.lower() not in LEVELS:
            raise SettingsError(f"log level {one!r} is not known: use one of {', '.join(LEVELS)}")
    sinks: list[logging.Handler] = [_StreamSink(stream)]
    sinks[0].setLevel(level.upper())
    if file is not None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            sinks.append(
                _FileSink(file, maxBytes=FILE_BYTES, backupCount=FILES - 1, encoding="utf-8", errors="backslashreplace")
            )
            sinks[1].setLevel((file_level or level).upper())
        except OSError as error:
            raise SettingsError(f"the log file {file} cannot be written: {error.strerror or error}") from error
    for sink in sinks:
        sink.setFormatter(_LineFormatter())

    root = logging.getLogger()
    for earlier in [handler for handler in root.handlers if isinstance(handler, _Gate)]:
        root.removeHandler(earlier)
        earlier.close()
    gate = _Gate(sinks, clock or SystemClock())
    root.addHandler(gate)
    root.setLevel(min(sink.level for sink in sinks))

    def undo() -> None:
        root.removeHandler(gate)
        gate.close()

    return undo


_ESCAPES = {
    code: f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
    # C0, DEL, C1; line and paragraph separator; the characters that reorder text on a terminal.
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        0x2028,
        0x2029,
        0x200E,
        0x200F,
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    )
} | {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}

_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), "***"),
    (re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), r"\1 ***"),
    # A Chorus key keeps its id, so that its owner can be found.
    (re.compile(r"chorus_([0-9a-f]{8})_[A-Za-z0-9_-]+"), r"chorus_\1_***"),
    (re.compile(r"chorusnode_([0-9a-f-]{36})_[A-Za-z0-9_-]+"), r"chorusnode_\1_***"),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{16,}"), "sk-***"),
    (re.compile(r"\bchorus1\.[A-Za-z0-9.]{16,}"), "chorus1.***"),
    (
        re.compile(
            r"""\b(api[_-]?key|authorization|password|passwd|secret|(?:access|auth|join)[_-]token)"""
            r"""(["']?\s*[=:]\s*["']?)(?!(?:Bearer|Basic) \*)[^\s"'&,;]+""",
            re.IGNORECASE,
        ),
        r"\1\2***",
    ),
)


def redacted(text: str) -> str:
    """`text` with what looks like a key, password or token replaced by ***."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def escaped(text: str) -> str:
    """`text` as one line that cannot drive a terminal."""
    return text.translate(_ESCAPES)


class _LineFormatter(logging.Formatter):
    """`2026-01-31 12:00:00.123 INFO     logger: message`; a traceback follows, each line behind a bar."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        message = _bounded(record.getMessage())
        line = f"{when}.{int(record.msecs):03d} {record.levelname:<8} {record.name}: {message}"
        lines = [escaped(redacted(line))]
        trace = ""
        if record.exc_info:
            trace += self.formatException(record.exc_info)
        if record.stack_info:
            trace += ("\n" if trace else "") + record.stack_info
        if trace:
            # The bar: an exception's own text may hold line breaks, and must not look like another record.
            lines += [f"    | {escaped(one)}" for one in redacted(_bounded(trace)).split("\n")]
        return "\n".join(lines)


def _bounded(text: str) -> str:
    over = len(text) - MESSAGE_CHARACTERS
    return text if over <= 0 else f"{text[:MESSAGE_CHARACTERS]}… ({over} more characters)"


class _StreamSink(logging.StreamHandler[TextIO]):
    """Writes what the terminal's encoding lacks as escapes, and loses lines silently once nobody reads any more."""

    def format(self, record: logging.LogRecord) -> str:
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        return super().format(record).encode(encoding, "backslashreplace").decode(encoding)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        if not isinstance(sys.exc_info()[1], (OSError, ValueError)):
            super().handleError(record)


class _FileSink(RotatingFileHandler):
    """Readable by its owner only; a full disk costs lines, not the process."""

    def _open(self) -> TextIOWrapper:
        return open(
            self.baseFilename,
            "a",
            encoding=self.encoding,
            errors=self.errors,
            opener=lambda path, flags: os.open(path, flags, 0o600),
        )

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


@dataclass(slots=True)
class _Second:
    began_s: float
    lines: int = 0
    dropped: int = 0


class _Gate(logging.Handler):
    """Lets `LINES_PER_S` records a second of each logger through to the sinks, and tells how many it held back."""

    def __init__(self, sinks: list[logging.Handler], clock: Clock) -> None:
        super().__init__()
        self._sinks = sinks
        self._clock = clock
        self._seconds: dict[str, _Second] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now_s = self._clock.monotonic_s()
        second = self._seconds.get(record.name)
        if second is None or now_s - second.began_s >= 1:
            self._tell_dropped(now_s)
            second = self._seconds[record.name] = _Second(began_s=now_s)
        if second.lines >= LINES_PER_S:
            second.dropped += 1
            return
        second.lines += 1
        self._write(record)

    def close(self) -> None:
        self.acquire()
        try:
            self._tell_dropped(float("inf"))
            for sink in self._sinks:
                sink.close()
            super().close()
        finally:
            self.release()

    def _tell_dropped(self, now_s: float) -> None:
        """Report and forget every logger whose second is over."""
        over = [name for name, second in self._seconds.items() if now_s - second.began_s >= 1]
        for name in over:
            dropped = self._seconds.pop(name).dropped
            if dropped:
                text = f"{dropped} more lines within a second were dropped"
                self._write(logging.LogRecord(name, logging.WARNING, "", 0, text, None, None))

    def _write(self, record: logging.LogRecord) -> None:
        for sink in self._sinks:
            if record.levelno >= sink.level:
                sink.handle(record)
