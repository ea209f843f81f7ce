"""Backends: servers that speak OpenAI's API and have no agent of ours; each becomes a node by being registered."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from chorus_proto.errors import InvalidRequest
from chorus_proto.ids import ModelName, NodeId

URL_CHARACTERS = 2_048
MODELS_LIMIT = 64
SLOTS_LIMIT = 1_024
SECRET_CHARACTERS = 4_096
WEIGHTS = (0.01, 100.0)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class BackendState(StrEnum):
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    """It does not answer; it is no node until it does."""
    EJECTED = "ejected"
    """It answers, but what it was asked to compute failed; it gets nothing for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBackend:
    """The wish for a backend. The same name again takes the place of what it was."""

    name: str
    url: str
    """With or without the `/v1` at its end."""
    models: tuple[ModelName, ...] = ()
    """What it is to be known for; empty: all that it lists. A name that it does not list means the one that it has."""
    model_type: str = ""
    """In the registrant's words; only shown."""
    slots: int | None = None
    """Generations at once; None takes the coordinator's setting."""
    api_key: str = field(default="", repr=False)
    """Shown to it as a bearer token."""
    weight: float | None = None
    """Preferred or spared as if it were so many times as fast; None: as `node_weights` says of its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredBackend:
    """A backend as it is kept; `node_id` is the node that it is."""

    node_id: NodeId
    wish: NewBackend
    created_unix_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendHealth:
    """What is known of a backend now. `models`: what it serves here."""

    state: BackendState
    detail: str = ""
    models: tuple[ModelName, ...] = ()
    probe_age_s: float | None = None
    """Since it was last asked whether it is well; None: not yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A backend for people: without its secret."""

    node_id: NodeId
    name: str
    url: str
    model_type: str
    slots: int | None
    created_unix_s: float
    health: BackendHealth
    weight: float | None = None


def check_backend(wish: NewBackend) -> None:
    """What can be told without asking anybody. Raises InvalidRequest."""
    if not _NAME.fullmatch(wish.name):
        raise InvalidRequest("a backend's name has 1 to 64 letters, digits, dots, dashes and underscores", param="name")
    _check_url(wish.url)
    if len(wish.models) > MODELS_LIMIT or len(set(wish.models)) != len(wish.models):
        raise InvalidRequest(f"a backend has at most {MODELS_LIMIT} models, each once", param="models")
    if any(not (0 < len(model) <= 256 and model.isprintable()) for model in wish.models):
        raise InvalidRequest("a model's name has 1 to 256 printable characters", param="models")
    if len(wish.model_type) > 64 or not (wish.model_type.isprintable() or not wish.model_type):
        raise InvalidRequest("model_type has at most 64 printable characters", param="model_type")
    if wish.slots is not None and not 1 <= wish.slots <= SLOTS_LIMIT:
        raise InvalidRequest(f"slots is a number from 1 to {SLOTS_LIMIT}", param="slots")
    if wish.weight is not None and not WEIGHTS[0] <= wish.weight <= WEIGHTS[1]:
        raise InvalidRequest(f"weight is a number from {WEIGHTS[0]:g} to {WEIGHTS[1]:g}", param="weight")
    if len(wish.api_key) > SECRET_CHARACTERS or not (wish.api_key.isascii() and (wish.api_key + "x").isprintable()):
        raise InvalidRequest("an API key is one line of printable ASCII", param="api_key")


def _check_url(url: str) -> None:
    if not 0 < len(url) <= URL_CHARACTERS or not url.isprintable() or " " in url:
        raise InvalidRequest("the url is not one; write it as http://HOST:PORT", param="url")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidRequest("the url is not one; write it as http://HOST:PORT", param="url") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise InvalidRequest("the url must be http://HOST:PORT or https://HOST:PORT", param="url")
    if "@" in parts.netloc:
        raise InvalidRequest("the url must not hold a user or a password; there is api_key", param="url")
    if parts.query or parts.fragment or "\\" in url:
        raise InvalidRequest("the url ends with its path", param="url")
