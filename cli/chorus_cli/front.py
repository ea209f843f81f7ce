"""Short questions to the HTTP address, for what only it knows: documents. One line when it refuses or is away."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import click
import httpx
import msgspec

from chorus_cli.options import effective
from chorus_cli.settings import CliSettings
from chorus_proto import logs
from chorus_proto.exposure import is_loopback
from chorus_proto.keys import local_key

GIVEN = ("http_url", "coordinator", "state_dir", "log_level", "answer_within_s")
"""The settings that every such question has."""

Answer = TypeVar("Answer")
S = TypeVar("S", bound=msgspec.Struct)
Part = tuple[str, tuple[str, bytes]]
"""A file of a form: the field's name, the file's name and its bytes."""
_UPLOAD_WITHIN_S = 600.0


class Refused(click.ClickException):
    """The server's own words. `status` is HTTP's."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class _Error(msgspec.Struct):
    message: str
    code: str = ""


class _Refusal(msgspec.Struct):
    error: _Error


class Front:
    """One HTTP address. On its own PC it needs no key; where it asks for one, that of the settings or of this PC."""

    def __init__(self, client: httpx.Client, settings: CliSettings) -> None:
        self._client = client
        self.settings = settings

    def ask(self, method: str, path: str, kind: type[S], *, body: object = None, within_s: float | None = None) -> S:
        """The answer as a `kind`. Raises Refused, and ClickException when nobody answers."""
        content = None if body is None else msgspec.json.encode(body)
        raw = self._sent(method, path, content=content, within_s=within_s or self.settings.answer_within_s).content
        try:
            return msgspec.json.decode(raw, type=kind)
        except msgspec.MsgspecError as error:
            raise click.ClickException(f"{self._client.base_url} answered what is none of Chorus's: {error}") from None

    def delete(self, path: str) -> None:
        """Raises as `ask`."""
        self._sent("DELETE", path, within_s=self.settings.answer_within_s)

    def upload(self, path: str, files: Sequence[Part], fields: Mapping[str, str], kind: type[S]) -> S:
        """Files as one form. Raises as `ask`."""
        raw = self._sent("POST", path, files=files, fields=fields, within_s=_UPLOAD_WITHIN_S).content
        return msgspec.json.decode(raw, type=kind)

    @contextmanager
    def events(self, path: str, body: object, *, within_s: float) -> Generator[Generator[tuple[str, bytes]]]:
        """Name and data of each server-sent event. Raises as `ask`, also while they are read."""
        request = self._client.build_request(
            "POST", path, content=msgspec.json.encode(body), headers=_JSON, timeout=within_s
        )
        reply = self._answered(request, stream=True)
        try:
            yield _events(reply.iter_lines())
        except httpx.HTTPError as error:
            raise click.ClickException(f"the answer broke off: {error}") from None
        finally:
            reply.close()

    def _sent(
        self,
        method: str,
        path: str,
        *,
        within_s: float,
        content: bytes | None = None,
        files: Sequence[Part] = (),
        fields: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        headers = _JSON if content is not None else None
        request = self._client.build_request(
            method, path, content=content, files=list(files) or None, data=fields, headers=headers, timeout=within_s
        )
        return self._answered(request)

    def _answered(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        try:
            reply = self._client.send(request, stream=stream)
            if reply.status_code == 401 and "authorization" not in request.headers and (key := self._own_key()):
                self._client.headers["authorization"] = request.headers["authorization"] = f"Bearer {key}"
                reply.close()
                reply = self._client.send(request, stream=stream)
            if reply.is_success:
                return reply
            raise _refused(reply.status_code, reply.read())
        except httpx.TimeoutException:
            raise click.ClickException(f"{self._client.base_url} gave no answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise click.ClickException(
                f"no HTTP address answers at {self._client.base_url} ({error}); is it running? --http-url names another"
            ) from None

    def _own_key(self) -> str:
        """The key of this PC, for an address of this PC only: it opens everything."""
        if not is_loopback(self._client.base_url.host):
            return ""
        return local_key(self.settings.state_dir, self.settings.coordinator)


_JSON = {"content-type": "application/json"}


def _events(lines: Iterable[str]) -> Generator[tuple[str, bytes]]:
    """An event without a name is how a stream tells of its failure."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data = line.removeprefix("data: ").encode()
            if not name:
                raise _refused(0, data)
            yield name, data
        elif not line:
            name = ""


def _refused(status: int, raw: bytes) -> Refused:
    try:
        error = msgspec.json.decode(raw, type=_Refusal).error
    except msgspec.MsgspecError:
        return Refused(f"the HTTP address answered {status}", status, "")
    return Refused(error.message, status, error.code)


def fronted(question: Callable[[Front], Answer], *, config: Path | None, flags: dict[str, object]) -> Answer:
    """Run `question` against the HTTP address of the settings. Raises SettingsError, and what `Front` raises."""
    settings = effective(CliSettings, "cli", config=config, flags=flags)
    undo = logs.configure(settings.log_level, stream=sys.stderr, file=None)
    headers = {"authorization": f"Bearer {settings.api_key}"} if settings.api_key else None
    try:
        with httpx.Client(base_url=settings.http_url, headers=headers, trust_env=False) as client:
            return question(Front(client, settings))
    finally:
        undo()
