"""In CI a skipped test is a test that was lost: the run fails, unless the skip is on this list with its reason."""

from __future__ import annotations

import os
import shutil
import sys

import pytest

ALLOWED: dict[str, str] = {
    "needs Windows": "job objects and console events exist there only; CI runs on Linux, test.bat on a Windows PC",
    "needs POSIX": "signals and process groups that Windows lacks; CI, which runs on Linux, has them",
    "needs a network card": "a machine with nothing but loopback: the packet's way is tested there, in one process",
    "needs an external llama-server": "built from source in 15 minutes; the bundled engine runs the same tests",
    "needs the extra transformers": "a Python without torch's wheels; the dev extra, which CI installs, brings it",
    "needs a PostgreSQL server of the system's own": "shows one refusal, of a server without pgvector",
    "needs the vocabulary of openai-harmony": "its tokens come from elsewhere; the same prompts are checked as text",
}
"""How a skip's message begins -> why CI may skip it."""
if sys.platform != "linux":
    ALLOWED["needs PostgreSQL with pgvector"] = "the wheel of the dev extra brings it for Linux and macOS only"

if sys.platform != "linux" or shutil.which("apt-get") is None or os.geteuid() != 0:
    ALLOWED["needs Chromium"] = (
        "test.sh installs it where it may; elsewhere the pages are looked at by who changes them"
    )

_unexplained: list[str] = []


def explained(message: str) -> bool:
    """Is this skip message on the list?"""
    return any(message.removeprefix("Skipped: ").startswith(start) for start in ALLOWED)


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _note(report.nodeid, report.longrepr)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _note(report.nodeid, report.longrepr)


def _note(where: str, longrepr: object) -> None:
    message = str(longrepr[2]) if isinstance(longrepr, tuple) and len(longrepr) == 3 else str(longrepr)  # pyright: ignore[reportUnknownArgumentType]  # pytest documents (path, line, message)
    if not explained(message):
        _unexplained.append(f"{where}: {message}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _unexplained and in_ci():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _unexplained and in_ci():
        terminalreporter.section("skipped in CI without a known reason: the run fails", red=True)
        for line in _unexplained:
            terminalreporter.line(line)
