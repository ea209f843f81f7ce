"""Paths that stand in a configuration file: what they may look like, and where they may lead.

The rules of every system hold on every system, so that a file refused on one PC is not accepted on another.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from chorus_proto.settings import SettingsError

BUNDLED = "bundled"
BUNDLED_COMMAND = "chorus-llama-server"
GGUF_SUFFIX = ".gguf"

_DEVICES = frozenset({"con", "prn", "aux", "nul", "conin$", "conout$"}) | {
    f"{port}{digit}" for port in ("com", "lpt") for digit in "0123456789¹²³"
}
"""Names that are devices on Windows, in any folder and with any suffix."""
_SCRIPT_SUFFIXES = (".bat", ".cmd", ".ps1", ".sh", ".vbs", ".py")


def refuse_odd_characters(text: str, *, key: str) -> None:
    """Raises SettingsError for an empty path or one with control characters, NUL among them."""
    if not text or not text.isprintable():
        raise SettingsError(
            f"{key} = {text!r}: a path has at least one character and no control characters; correct it"
        )


def check_inside(text: str, *, key: str) -> None:
    """Raises SettingsError unless `text` can only name something below the folder it is joined to."""
    refuse_odd_characters(text, key=key)
    if "\\" in text:
        raise SettingsError(f"{key} = {text!r}: write / between folders, never a backslash")
    if ":" in text:
        raise SettingsError(f"{key} = {text!r}: a colon (drive letter or stream) is not allowed; name a relative path")
    if text.startswith(("/", "~")):
        raise SettingsError(f"{key} = {text!r}: it must be relative to the models folder")
    for part in text.split("/"):
        if part in ("", ".", ".."):
            raise SettingsError(f"{key} = {text!r}: no empty part, '.' or '..' is allowed; name what lies below")
        if part != part.rstrip(". ") or part != part.lstrip(" "):
            raise SettingsError(f"{key} = {text!r}: no part may end in a dot or begin or end in a space")
        if part.partition(".")[0].rstrip().lower() in _DEVICES:
            raise SettingsError(f"{key} = {text!r}: {part!r} is a device on Windows; choose another name")


def check_gguf_name(text: str, *, key: str) -> None:
    """`check_inside`, and the suffix. Raises SettingsError."""
    check_inside(text, key=key)
    if not text.lower().endswith(GGUF_SUFFIX):
        raise SettingsError(f"{key} = {text!r}: only {GGUF_SUFFIX} files can be served")


def model_path(folders: Sequence[Path], model_dir: str | None, gguf_file: str, *, key: str) -> Path:
    """The file in the first of `folders` that has it, every link followed. Raises SettingsError when none has it, or
    when what it leads to lies outside that folder."""
    for folder in folders:
        path = folder / model_dir / gguf_file if model_dir else folder / gguf_file
        if not path.is_file():
            continue
        resolved = path.resolve()
        if not resolved.is_relative_to(folder.resolve()):
            raise SettingsError(f"{key} = {gguf_file!r}: it leads out of the models folder {folder}; copy it there")
        check_gguf_name(resolved.name, key=key)
        return resolved
    looked = ", ".join(str(folder) for folder in folders)
    where = f"{model_dir}/{gguf_file}" if model_dir else gguf_file
    raise SettingsError(f"{key}: there is no file {where} in {looked}; put it there, or set models_dir")


def program_path(text: str, base: Path, *, key: str) -> Path | None:
    """The program to start; None for the bundled engine. A relative path starts at `base`.

    Raises SettingsError for what is not a program, is a script (which may start anything), or can be changed by every
    user of this PC. Windows has no such mode bits; there the folder's own protection counts.
    """
    check_program_text(text, key=key)
    if is_bundled(text):
        return None
    path = (base / Path(text).expanduser()).resolve()
    if not path.is_file() or not os.access(path, os.X_OK):
        raise SettingsError(f"{key} = {text!r}: {path} is not a program that can be run; correct it or write 'bundled'")
    with path.open("rb") as program:
        is_script = program.read(2) == b"#!" or path.suffix.lower() in _SCRIPT_SUFFIXES
    if is_script:
        raise SettingsError(f"{key} = {text!r}: it is a script; name the llama-server program itself")
    if sys.platform != "win32":
        loose = path.stat().st_mode & stat.S_IWOTH
        folder_mode = path.parent.stat().st_mode
        if loose or (folder_mode & stat.S_IWOTH and not folder_mode & stat.S_ISVTX):
            raise SettingsError(f"{key} = {text!r}: every user of this PC can change it; run chmod o-w on {path}")
    return path


def check_program_text(text: str, *, key: str) -> None:
    """What can be said without looking at the disk. Raises SettingsError."""
    refuse_odd_characters(text, key=key)
    if text.startswith(("\\\\", "//")):
        raise SettingsError(f"{key} = {text!r}: a program on another PC is not started; copy it to this one")


def is_bundled(text: str) -> bool:
    """Whether `llama_server_path` means the engine that Chorus brings."""
    name = text.replace("\\", "/").rpartition("/")[2].lower()
    return text == BUNDLED or name.removesuffix(".exe") == BUNDLED_COMMAND
