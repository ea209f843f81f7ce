from __future__ import annotations

import io
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from chorus_proto import logs
from chorus_proto.settings import SettingsError
from tests.support.clock import FakeClock


class Terminal:
    """What `configure` writes to, and the lines that arrived."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self.clock = FakeClock()
        self._raw = io.BytesIO()
        self.stream = io.TextIOWrapper(self._raw, encoding=encoding, newline="\n")

    def lines(self) -> list[str]:
        self.stream.flush()
        return self._raw.getvalue().decode(self.stream.encoding).splitlines()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    undo = logs.configure("info", stream=made.stream, file=None, clock=made.clock)
    yield made
    undo()


log = logging.getLogger("chorus_test.logs")


def test_a_record_is_one_line_with_time_level_logger_and_message(terminal: Terminal) -> None:
    log.info("a node %s joined", "attic")
    (line,) = terminal.lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO     chorus_test\.logs: a node attic joined", line)


def test_what_is_below_the_level_is_not_written(terminal: Terminal) -> None:
    log.debug("no")
    assert terminal.lines() == []


@pytest.mark.parametrize("level", ["", "loud", "10", "WARN "])
def test_an_unknown_level_is_refused_with_the_known_ones(level: str) -> None:
    with pytest.raises(SettingsError, match="use one of debug, info, warning, error, critical"):
        logs.configure(level, stream=io.StringIO(), file=None)


def test_a_message_cannot_forge_a_second_line_or_drive_the_terminal(terminal: Terminal) -> None:
    log.info("title %s", "x\r\n2026-01-01 INFO fake\x1b[2J\x9b31m\u2028\u202eevil\x00\x7f")
    (line,) = terminal.lines()
    assert line.endswith(r"title x\r\n2026-01-01 INFO fake\x1b[2J\x9b31m\u2028\u202eevil\x00\x7f")


def test_a_traceback_keeps_its_lines_each_behind_a_bar_and_escaped(terminal: Terminal) -> None:
    try:
        raise RuntimeError("first\n2026-01-01 00:00:00.000 INFO     fake: \x1b[2J Bearer abcdefghijkl")
    except RuntimeError:
        log.exception("a bug")
    first, *rest = terminal.lines()
    assert first.endswith("ERROR    chorus_test.logs: a bug")
    assert len(rest) >= 4
    assert all(line.startswith("    | ") for line in rest)
    assert rest[-1].endswith(r"fake: \x1b[2J Bearer ***")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Bearer abc.DEF-123456", "Authorization: Bearer ***"),
        ("key chorus_a1b2c3d4_0123456789abcdefghijklmnopqrstuvwxyz-_ABCDE used", "key chorus_a1b2c3d4_*** used"),
        ("%chorus_a1b2c3d4_cut", "%chorus_a1b2c3d4_***"),
        ("GET /v1?api_key=topsecret&x=1", "GET /v1?api_key=***&x=1"),
        ('{"api-key": "topsecret", "n": 1}', '{"api-key": "***", "n": 1}'),
        ("password = hunter2", "password = ***"),
        ("sk-0123456789abcdefghij", "sk-***"),
        ("join chorus1.0123456789abcdef.abc123.SECRETSECRET now", "join chorus1.*** now"),
        ("-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY----- after", "*** after"),
        ("41.0 tokens/s, max_tokens=5, chorus_http_requests, keys: 3",) * 2,
    ],
)
def test_what_looks_like_a_key_is_not_written_and_nothing_else_is_lost(
    terminal: Terminal, text: str, shown: str
) -> None:
    log.info("%s", text)
    (line,) = terminal.lines()
    assert line.partition("chorus_test.logs: ")[2] == shown


def test_a_flood_of_one_logger_is_cut_and_counted_while_others_go_on(terminal: Terminal) -> None:
    for number in range(250):
        log.info("flood %d", number)
    logging.getLogger("chorus_test.other").info("calm")
    assert len(terminal.lines()) == 101
    terminal.clock.advance(1)
    log.info("after")
    *_, told, after = terminal.lines()
    assert "WARNING  chorus_test.logs: 150 more lines within a second were dropped" in told
    assert after.endswith("after")


def test_the_count_of_a_flood_that_nothing_follows_is_written_at_the_end() -> None:
    made = Terminal()
    undo = logs.configure("info", stream=made.stream, file=None, clock=made.clock)
    for number in range(102):
        log.info("flood %d", number)
    undo()
    assert "2 more lines" in made.lines()[-1]
    log.warning("nobody listens")
    assert len(made.lines()) == 101


def test_a_huge_message_is_cut(terminal: Terminal) -> None:
    log.info("x" * 2_000_000)
    (line,) = terminal.lines()
    assert len(line) < 17_000
    assert line.endswith("… (1983616 more characters)")


def test_a_terminal_without_unicode_gets_escapes() -> None:
    made = Terminal("cp1252")
    undo = logs.configure("info", stream=made.stream, file=None)
    log.info("✅ naïve")
    undo()
    assert made.lines()[0].endswith("\\u2705 naïve")


def test_a_reader_who_is_gone_costs_the_lines_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w", buffering=1)
    undo = logs.configure("info", stream=stream, file=None)
    log.info("into the void")
    undo()
    with pytest.raises(OSError):
        stream.close()
    assert capfd.readouterr().err == ""


def test_configuring_again_replaces_the_earlier_set_up(terminal: Terminal) -> None:
    second = Terminal()
    undo = logs.configure("debug", stream=second.stream, file=None)
    log.debug("only here")
    undo()
    assert len(second.lines()) == 1
    assert terminal.lines() == []


def test_the_file_rotates_so_that_ten_of_them_bound_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FILE_BYTES", 2_000)
    monkeypatch.setattr(logs, "LINES_PER_S", 10_000)
    file = tmp_path / "deep" / "chorus.log"
    undo = logs.configure("info", stream=io.StringIO(), file=file)
    for number in range(500):
        log.info("line %d ✅", number)
    undo()
    written = sorted(file.parent.iterdir())
    assert len(written) == 10
    assert sum(one.stat().st_size for one in written) <= 10 * 2_000
    assert "line 499 ✅" in file.read_text(encoding="utf-8")
    if os.name == "posix":
        assert {stat.S_IMODE(one.stat().st_mode) for one in written} == {0o600}


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be written"):
        logs.configure("info", stream=io.StringIO(), file=tmp_path)


def test_the_file_may_hold_more_than_the_terminal(tmp_path: Path) -> None:
    made, file = Terminal(), tmp_path / "chorus.log"
    undo = logs.configure("warning", stream=made.stream, file=file, file_level="info")
    log.debug("nowhere")
    log.info("only in the file")
    log.warning("in both")
    undo()
    assert [line.rpartition(": ")[2] for line in made.lines()] == ["in both"]
    assert [line.rpartition(": ")[2] for line in file.read_text().splitlines()] == ["only in the file", "in both"]
