"""Build llama.cpp's own `llama-server` for the opt-in tests, once: `real_llama_server.py [--jobs N]` prints its path.

The source comes through pip, inside the sdist of llama-cpp-python: one pinned version, whose digest pip verifies. The
binary is kept in a cache folder (`CACHE_VARIABLE` moves it), and the next call only prints where it is. Building takes
about 10 minutes of one core, a C++ compiler, and cmake and ninja, which are fetched through pip where they are missing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock

VERSION = "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
CACHE_VARIABLE = "CHORUS_LLAMA_SERVER_CACHE"
PROGRAM = "llama-server.exe" if sys.platform == "win32" else "llama-server"
WITHIN_S = 2 * 3600.0
"""For each step. One slow core needs half an hour for the longest."""

_SOURCE = f"llama_cpp_python-{VERSION}/vendor/llama.cpp/"
_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    # One file without libraries of its own beside it: that is what the cache keeps.
    "-DBUILD_SHARED_LIBS=OFF",
    # A cache folder may travel to a PC with another processor.
    "-DGGML_NATIVE=OFF",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    # No page of its own, which the build would otherwise download, and no TLS: only tests on this PC ask it.
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
)


class BuildFailed(Exception):
    """A step of the build failed, or took too long; the message says which, and its last words."""


def default_jobs() -> int:
    """One compiler for each core."""
    return os.cpu_count() or 1


def cache_folder(environment: Mapping[str, str], platform: str, home: Path) -> Path:
    """Where built binaries are kept: what `CACHE_VARIABLE` says, or a folder in the user's cache."""
    chosen = environment.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    if platform == "win32":
        base = Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "chorus" / "llama-server"


def real_llama_server(cache: Path, *, jobs: int) -> Path:
    """The binary of `VERSION` in `cache`; built there when it is missing. Raises BuildFailed.

    Of several calls at once one builds and the others wait for it.
    """
    folder = (cache / VERSION).absolute()
    program = folder / PROGRAM
    if program.exists():
        return program
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / "lock", timeout=WITHIN_S):
            if not program.exists():
                _build(folder, program, jobs)
    except filelock.Timeout:
        raise BuildFailed(f"another process has been building in {folder} for {WITHIN_S:g} s") from None
    return program


def _build(folder: Path, program: Path, jobs: int) -> None:
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as work:
        steps = _Steps(work=Path(work), log=folder / "build.log")
        steps.log.write_bytes(b"")
        source = _extracted(_downloaded(steps), steps.work / "llama.cpp")
        out = steps.work / "out"
        path = _path_with_build_tools(steps)
        # Ninja would need the shell of Visual Studio on Windows, whose own generator finds its compiler by itself.
        generator = () if sys.platform == "win32" else ("-G", "Ninja")
        steps.run("configure", [_tool("cmake", path), "-S", str(source), "-B", str(out), *generator, *_OPTIONS], path)
        targets = ["--config", "Release", "--target", "llama-server", "--parallel", str(jobs)]
        steps.run("compile", [_tool("cmake", path), "--build", str(out), *targets], path)
        built = next((out / "bin").rglob(PROGRAM), None)
        if built is None:
            raise BuildFailed(f"the build ended well, but made no {PROGRAM}; see {steps.log}")
        steps.run("try", [str(built), "--version"], path)
        # A rename is one step: nobody sees half a binary.
        built.replace(program)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Steps:
    """Runs the commands of a build; what they print goes to one log."""

    work: Path
    log: Path

    def run(self, name: str, command: Sequence[str], path: str) -> None:
        with self.log.open("ab") as log:
            try:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PATH": path},
                    timeout=WITHIN_S,
                    check=False,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise BuildFailed(f"{name}: {error}; see {self.log}") from None
        if done.returncode != 0:
            last = self.log.read_text("utf-8", errors="replace").splitlines()[-20:]
            raise BuildFailed("\n".join([f"{name} ended with code {done.returncode}; see {self.log}", *last]))


def _downloaded(steps: _Steps) -> Path:
    requirement = steps.work / "requirement.txt"
    requirement.write_text(f"llama-cpp-python=={VERSION} --hash=sha256:{SHA256}\n", encoding="ascii")
    # Its build tools may be wheels, so the ban on wheels names this one package.
    only_source = ["--no-deps", "--no-binary", "llama-cpp-python", "--require-hashes"]
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *only_source]
    steps.run("download", [*pip, "--dest", str(steps.work), "-r", str(requirement)], _own_path())
    return steps.work / f"llama_cpp_python-{VERSION}.tar.gz"


def _extracted(archive: Path, folder: Path) -> Path:
    """llama.cpp's part of the sdist."""
    with tarfile.open(archive) as sdist:
        for member in sdist:
            if member.name.startswith(_SOURCE):
                sdist.extract(member.replace(name=member.name.removeprefix(_SOURCE)), folder, filter="data")
    return folder


def _own_path() -> str:
    """PATH, with the programs of this Python environment first: they are used also when it is not activated."""
    return os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH") or os.defpath])


def _path_with_build_tools(steps: _Steps) -> str:
    """A PATH that has cmake and ninja: this one, or a new environment's that pip filled."""
    path = _own_path()
    missing = [name for name in ("cmake", "ninja") if shutil.which(name, path=path) is None]
    if not missing:
        return path
    environment = steps.work / "build-tools"
    steps.run("build tools", [sys.executable, "-m", "venv", str(environment)], path)
    scripts = environment / ("Scripts" if sys.platform == "win32" else "bin")
    steps.run("build tools", [str(scripts / "python"), "-m", "pip", "install", *missing], path)
    return os.pathsep.join([str(scripts), path])


def _tool(name: str, path: str) -> str:
    found = shutil.which(name, path=path)
    if found is None:
        raise BuildFailed(f"{name} was installed, but is not on {path}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Build llama-server from source, once, and print its path.")
    parser.add_argument(
        "--jobs", type=int, default=default_jobs(), help="compilers at once (default: one for each core)"
    )
    jobs: int = parser.parse_args(arguments).jobs
    try:
        program = real_llama_server(cache_folder(os.environ, sys.platform, Path.home()), jobs=jobs)
    except BuildFailed as error:
        print(error, file=sys.stderr)
        return 1
    print(program)
    return 0


if __name__ == "__main__":
    sys.exit(main())
