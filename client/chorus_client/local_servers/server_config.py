"""One server of the file, and what its clients use, as frozen values; how they are read out of the file's JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar, cast

from chorus_client.engine_parameters import RawParameter, checked
from chorus_client.local_servers.paths import check_gguf_name, check_inside, check_program_text
from chorus_proto.dialects.strict_json import JsonObject, JsonValue
from chorus_proto.settings import SettingsError

NO_KEY = "EMPTY"
"""OpenAI clients insist on a key; this word stands for none, by convention."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

T = TypeVar("T", str, int, float, bool)
D = TypeVar("D", str, int, float, bool, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """One server as the file names it. Paths are as written there; `plan.py` says where they lead."""

    name: str
    llama_server_path: str
    server_host: str = "127.0.0.1"
    server_port: int = 8000
    healthcheck_interval_s: float = 2.0
    """Longest pause between two questions whether a starting server is ready; key `healthcheck_interval`."""
    model_dir: str | None = None
    gguf_file: str | None = None
    auto_start: bool = False
    server_params: Mapping[str, RawParameter] = field(default_factory=dict[str, RawParameter])

    @property
    def model(self) -> str:
        """The file's name, for people."""
        return (self.gguf_file or "").rpartition("/")[2] or "-"

    @property
    def base_url(self) -> str:
        """Without `/v1`."""
        host = f"[{self.server_host}]" if ":" in self.server_host else self.server_host
        return f"http://{host}:{self.server_port}"

    @property
    def api_base_url(self) -> str:
        return f"{self.base_url}/v1"


KEYS = {"healthcheck_interval_s": "healthcheck_interval"}
"""Fields whose key in the file is another; all others have their own name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What OpenAI clients of the local servers use."""

    default_local_server: str | None = None
    api_base_url: str | None = None
    api_key: str = field(default=NO_KEY, repr=False)
    model_name: str | None = None

    @property
    def secret(self) -> str | None:
        """The key to ask for; None when anybody on this PC may ask."""
        return None if self.api_key in ("", NO_KEY) else self.api_key


def server_of(value: JsonValue, where: str, *, name: str | None) -> ServerConfig:
    """One server out of the file; `where` is its place there, `name` its name if the form has none.

    Raises SettingsError.
    """
    if not isinstance(value, dict):
        raise SettingsError(f"{where} must be an object with llama_server_path; write {{...}}")
    dot = f"{where}."
    name = name or _required(value, "name", where)
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{dot}name = {name!r}: write 1 to 64 letters, digits, '-', '_' or '.', a letter or digit first"
        )
    program = _required(value, "llama_server_path", where)
    check_program_text(program, key=f"{dot}llama_server_path")
    port = field_of(value, "server_port", int, dot, 8000)
    if not 1 <= port <= 65_535:
        raise SettingsError(f"{dot}server_port = {port}: a port is from 1 to 65535")
    interval_s = field_of(value, "healthcheck_interval", float, dot, 2.0)
    if not 0.05 <= interval_s <= 3600:
        raise SettingsError(f"{dot}healthcheck_interval = {interval_s:g}: write seconds from 0.05 to 3600")
    model_dir = field_of(value, "model_dir", str, dot, None)
    if model_dir is not None:
        check_inside(model_dir, key=f"{dot}model_dir")
    gguf_file = field_of(value, "gguf_file", str, dot, None)
    if gguf_file is not None:
        check_gguf_name(gguf_file, key=f"{dot}gguf_file")
    host = field_of(value, "server_host", str, dot, "127.0.0.1")
    if not re.fullmatch(r"[A-Za-z0-9.:-]{1,253}", host) or host.startswith("-"):
        raise SettingsError(f"{dot}server_host = {host!r}: write an address such as 127.0.0.1")
    parameters = value.get("server_params")
    if parameters is not None and not isinstance(parameters, dict):
        raise SettingsError(f"{dot}server_params must be an object of names and values; write {{...}}")
    for parameter, raw in (parameters or {}).items():
        checked(parameter, raw, key=f"{dot}server_params")
    return ServerConfig(
        name=name,
        llama_server_path=program,
        server_host=host,
        server_port=port,
        healthcheck_interval_s=interval_s,
        model_dir=model_dir,
        gguf_file=gguf_file,
        auto_start=field_of(value, "auto_start", bool, dot, False),
        server_params=cast("dict[str, RawParameter]", dict(parameters or {})),
    )


def endpoint_of(value: JsonValue, where: str) -> Endpoint:
    """Raises SettingsError."""
    if value is None:
        return Endpoint()
    if not isinstance(value, dict):
        raise SettingsError(f"{where} must be an object; write {{...}}")
    dot = f"{where}."
    return Endpoint(
        default_local_server=field_of(value, "default_local_server", str, dot, None),
        api_base_url=field_of(value, "api_base_url", str, dot, None),
        api_key=field_of(value, "api_key", str, dot, NO_KEY),
        model_name=field_of(value, "model_name", str, dot, None),
    )


def _required(value: JsonObject, key: str, where: str) -> str:
    found = field_of(value, key, str, f"{where}.", None)
    if not found:
        raise SettingsError(f"{where}: {key} is missing; every server needs one")
    return found


_WORDS: Mapping[type, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def field_of(value: JsonObject, key: str, kind: type[T], dot: str, default: D) -> T | D:
    """A value of the file; `null` counts as absent. A bool is not an int here. Raises SettingsError."""
    found = value.get(key)
    if found is None:
        return default
    if kind is float and type(found) is int:
        return cast("T", float(found))
    if type(found) is not kind:
        raise SettingsError(f"{dot}{key} = {found!r}: write {_WORDS[kind]}")
    return cast("T", found)
