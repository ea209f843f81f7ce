"""The file that tells a script where a process answers: written whole or not at all, gone when the process ends."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from chorus_proto.files import write_atomically
from chorus_proto.settings import SettingsError


class ReadyFile:
    """`write` does nothing when nobody asked for the file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @property
    def wanted(self) -> bool:
        return self._path is not None

    def write(self, facts: Mapping[str, str]) -> None:
        """`facts`: http_url, ollama_url, grpc_address, join, as far as the process knows them; `pid` is added."""
        if self._path is None:
            return
        write_atomically(self._path, (json.dumps({**facts, "pid": os.getpid()}) + "\n").encode())


@contextmanager
def ready_file(path: Path | None) -> Generator[ReadyFile]:
    """Take away what an earlier process left, before anybody reads it as ours. Raises SettingsError."""
    if path is not None:
        try:
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(
                f"--ready-file {path} cannot be written ({error.strerror}); name a file in a folder of yours"
            ) from None
    try:
        yield ReadyFile(path)
    finally:
        if path is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
