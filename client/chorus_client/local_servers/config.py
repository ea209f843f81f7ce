"""The file that names the local servers, in its two forms; what it says as frozen values; how changes are written back.

The form with a list `local_llm_servers` and `llm_endpoint.default_local_server`, and the older form with one server
under `local_llm_server`. Each is saved in its own form, and only changed values are touched: order, spacing and keys
that Chorus does not know stay as their owner wrote them.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import cast

from chorus_client.local_servers.json_text import Route, with_values
from chorus_client.local_servers.server_config import (
    KEYS,
    Endpoint,
    ServerConfig,
    endpoint_of,
    field_of,
    server_of,
)
from chorus_proto.dialects.strict_json import JsonValue, load_object
from chorus_proto.errors import InvalidJson
from chorus_proto.exposure import is_loopback
from chorus_proto.files import write_atomically
from chorus_proto.settings import SettingsError

LEGACY_NAME = "default"
"""What the one server of the older form is called."""

_LIST, _ONE, _ENDPOINT = "local_llm_servers", "local_llm_server", "llm_endpoint"
_MOST_BYTES = 1 << 20
_MOST_SERVERS = 256
_BOM = "\ufeff"


class Form(StrEnum):
    LIST = "list"
    ONE = "one"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServersConfig:
    """The whole file. Make one with `load` or `parsed`, a changed one with `with_active` or `with_default`."""

    path: Path
    form: Form
    servers: tuple[ServerConfig, ...]
    endpoint: Endpoint
    models_dir: str | None = None
    text: str = field(repr=False, default="")
    """The file as it was read."""

    @property
    def folder(self) -> Path:
        """Where relative paths in the file start."""
        return self.path.absolute().parent

    @property
    def models_folder(self) -> Path:
        """Key `models_dir`, or `models` beside the file."""
        return self.folder / Path(self.models_dir or "models").expanduser()

    def list_servers(self) -> list[str]:
        """All names, in the order of the file."""
        return [server.name for server in self.servers]

    def get_server_by_name(self, name: str) -> ServerConfig:
        """Raises SettingsError with the names there are."""
        for server in self.servers:
            if server.name == name:
                return server
        close = difflib.get_close_matches(name, self.list_servers(), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(self.list_servers()) or 'none'}"
        raise SettingsError(f"there is no server {name!r} in {self.path}; {hint}")

    def get_server_by_port(self, port: int) -> ServerConfig | None:
        return next((server for server in self.servers if server.server_port == port), None)

    def get_active_server(self) -> ServerConfig:
        """The default one, else the one that `api_base_url` points to, else the first. Raises SettingsError when there
        is none."""
        if not self.servers:
            raise SettingsError(f"{self.path}: {_LIST} is empty; add a server with name and llama_server_path")
        if self.endpoint.default_local_server is not None:
            return self.get_server_by_name(self.endpoint.default_local_server)
        url = (self.endpoint.api_base_url or "").rstrip("/")
        return next(
            (server for server in self.servers if url in (server.base_url, server.api_base_url)), self.servers[0]
        )

    def with_active(self, **changes: object) -> ServersConfig:
        """The same with fields of the active server changed; `api_base_url` follows when it pointed there.

        Raises SettingsError for a value that the file could not hold.
        """
        old = self.get_active_server()
        new = dataclasses.replace(old, **changes)  # pyright: ignore[reportArgumentType]  # checked by reading it back below
        endpoint = self.endpoint
        if (endpoint.api_base_url or "").rstrip("/") == old.api_base_url:
            endpoint = dataclasses.replace(endpoint, api_base_url=new.api_base_url)
        if endpoint.default_local_server == old.name:
            endpoint = dataclasses.replace(endpoint, default_local_server=new.name)
        servers = tuple(new if server is old else server for server in self.servers)
        changed = dataclasses.replace(self, servers=servers, endpoint=endpoint)
        return dataclasses.replace(parsed(changed.rendered(), self.path), text=self.text)

    def with_default(self, name: str) -> ServersConfig:
        """The same with `name` as the default server. Raises SettingsError when there is no such server."""
        server = self.get_server_by_name(name)
        chosen = server.name if self.form is Form.LIST else self.endpoint.default_local_server
        endpoint = dataclasses.replace(self.endpoint, default_local_server=chosen, api_base_url=server.api_base_url)
        return dataclasses.replace(self, endpoint=endpoint)

    def rendered(self) -> str:
        """The file's text with all changes since it was read."""
        before = parsed(self.text, self.path)
        bom = _BOM if self.text.startswith(_BOM) else ""
        changes: dict[Route, JsonValue] = {}
        for index, (old, new) in enumerate(zip(before.servers, self.servers, strict=True)):
            place: Route = (_LIST, index) if self.form is Form.LIST else (_ONE,)
            for name, value in _differences(old, new).items():
                if self.form is Form.ONE and name == "name":
                    continue
                changes[(*place, KEYS.get(name, name))] = value
        endpoint = _differences(before.endpoint, self.endpoint)
        body = self.text.removeprefix(_BOM)
        if endpoint and _ENDPOINT not in load_object(body.encode()):
            body = with_values(body, {(_ENDPOINT,): dict[str, JsonValue]()})
        return bom + with_values(body, changes | {(_ENDPOINT, name): value for name, value in endpoint.items()})

    def save(self, path: Path | None = None) -> ServersConfig:
        """Write it, to `path` or where it came from, whole or not at all; what was written. Raises SettingsError."""
        text, target = self.rendered(), path or self.path
        _write_whole(target, text)
        return dataclasses.replace(self, path=target, text=text)

    def update_default_server(self, name: str) -> ServersConfig:
        """Make `name` the default on disk: changes `default_local_server` and `api_base_url` in the file as it is now,
        so that what others changed since it was read stays. Raises SettingsError."""
        return load(self.path).with_default(name).save()


def _differences(old: ServerConfig | Endpoint, new: ServerConfig | Endpoint) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {}
    for one in dataclasses.fields(old):
        before: object = getattr(old, one.name)
        now: object = getattr(new, one.name)
        if now != before:
            found[one.name] = cast(
                "JsonValue", dict(cast("Mapping[str, JsonValue]", now)) if isinstance(now, Mapping) else now
            )
    return found


def _write_whole(path: Path, text: str) -> None:
    """Readers see the old file or the new one. A link stays a link; the file's mode stays."""
    target = path.resolve()
    try:
        mode = target.stat().st_mode & 0o777 if target.exists() else None
        write_atomically(target, text.encode())
        if mode is not None:
            target.chmod(mode)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror or error}; make it writable") from error


def load(path: Path) -> ServersConfig:
    """Read and check the file. Raises SettingsError, which names the key and the fix."""
    try:
        with path.open("rb") as source:
            raw = source.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise SettingsError(
            f"the file of local servers {path} does not exist; create it, or name it by --config"
        ) from None
    except OSError as error:
        raise SettingsError(f"the file of local servers {path} cannot be read: {error.strerror or error}") from None
    if len(raw) > _MOST_BYTES:
        raise SettingsError(f"{path} is larger than {_MOST_BYTES} bytes; that is no file of local servers")
    try:
        return parsed(raw.decode("utf-8"), path)
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def parsed(text: str, path: Path) -> ServersConfig:
    """What `text`, the content of `path`, says. Raises SettingsError."""
    try:
        document = load_object(text.removeprefix(_BOM).encode())
    except InvalidJson as error:
        raise SettingsError(f"{path}: {error.message.replace('The body', 'the file')}") from None
    if _LIST in document and _ONE in document:
        raise SettingsError(f"{path}: it has both {_LIST} and {_ONE}; keep one of them")
    if _LIST in document:
        form, servers = Form.LIST, _server_list(document[_LIST], path)
    elif _ONE in document:
        form, servers = Form.ONE, (server_of(document[_ONE], f"{path}: {_ONE}", name=LEGACY_NAME),)
    else:
        raise SettingsError(f"{path}: neither {_LIST} nor {_ONE} is there; add {_LIST}, a list of servers")
    _refuse_twins(servers, path)
    models_dir = field_of(document, "models_dir", str, f"{path}: ", None)
    config = ServersConfig(
        path=path,
        form=form,
        servers=servers,
        endpoint=endpoint_of(document.get(_ENDPOINT), f"{path}: {_ENDPOINT}"),
        models_dir=models_dir,
        text=text,
    )
    _check_together(config)
    return config


def _server_list(value: JsonValue, path: Path) -> tuple[ServerConfig, ...]:
    if not isinstance(value, list):
        raise SettingsError(f"{path}: {_LIST} must be an array of servers; write [{{...}}] around the server")
    if len(value) > _MOST_SERVERS:
        raise SettingsError(f"{path}: {_LIST} has {len(value)} servers (limit {_MOST_SERVERS})")
    return tuple(server_of(one, f"{path}: {_LIST}[{index}]", name=None) for index, one in enumerate(value))


def _refuse_twins(servers: Sequence[ServerConfig], path: Path) -> None:
    names: set[str] = set()
    ports: dict[int, str] = {}
    for server in servers:
        if server.name.lower() in names:
            raise SettingsError(f"{path}: {_LIST} has two servers with the name {server.name!r}; rename one")
        if server.server_port in ports:
            raise SettingsError(
                f"{path}: {ports[server.server_port]!r} and {server.name!r} have the same server_port"
                f" {server.server_port}; give one of them another"
            )
        names.add(server.name.lower())
        ports[server.server_port] = server.name


def _check_together(config: ServersConfig) -> None:
    default = config.endpoint.default_local_server
    if default is not None and default not in config.list_servers():
        known = ", ".join(config.list_servers()) or "none"
        raise SettingsError(
            f"{config.path}: {_ENDPOINT}.default_local_server = {default!r} is no server of this file; known: {known}"
        )
    for server in config.servers:
        if not is_loopback(server.server_host) and config.endpoint.secret is None:
            raise SettingsError(
                f"{config.path}: server_host = {server.server_host!r} of {server.name!r} lets other PCs in"
                f" without a key; write 127.0.0.1, or set {_ENDPOINT}.api_key to a key of your own"
            )
