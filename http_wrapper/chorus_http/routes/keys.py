"""API keys over HTTP: `chorus keys` for the web page. A key's secret is in the one answer that makes it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Annotated, TypeVar

import msgspec
from quart import Blueprint, Response

from chorus_http.body import json_body
from chorus_http.exchange import current_exchange
from chorus_http.replies import json_reply
from chorus_proto.cluster import Cluster
from chorus_proto.dialects.fields import Text, read_fields
from chorus_proto.dialects.strict_json import load_object
from chorus_proto.errors import CoordinatorUnavailable
from chorus_proto.keys import ApiKey, NewKey, Scope

_Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]

T = TypeVar("T")


class KeyRequest(msgspec.Struct):
    """See `chorus keys create`. `expires_in_s`: without it the key stays good until it is revoked."""

    name: Text
    scopes: list[Scope]
    owner: Text | None = None
    expires_in_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    requests_per_minute: _Count | None = None
    parallel: _Count | None = None
    tokens_per_day: _Count | None = None
    trusted: bool | None = None


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """One key without its secret. Times are seconds since 1970; `mine`: the one that this request was made with."""

    key_id: str
    name: str
    owner: str
    scopes: tuple[Scope, ...]
    live: bool
    created_unix_s: float
    expires_unix_s: float | None
    last_used_unix_s: float | None
    revoked_unix_s: float | None
    requests_per_minute: int | None
    parallel: int | None
    tokens_per_day: int | None
    tokens_today: int
    trusted: bool
    mine: bool


class KeyList(msgspec.Struct, frozen=True, kw_only=True):
    keys: tuple[KeyRow, ...]


class KeyMade(msgspec.Struct, frozen=True, kw_only=True):
    """`secret` is the whole key, told this once."""

    secret: str
    key: KeyRow


def key_routes(cluster: Cluster, *, answer_within_s: float) -> Blueprint:
    routes = Blueprint("keys", __name__)

    async def answered(question: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(answer_within_s):
                return await question
        except TimeoutError:
            raise CoordinatorUnavailable("The coordinator did not answer in time.") from None

    async def listed() -> Response:
        return json_reply(KeyList(keys=tuple(_row(key) for key in await answered(cluster.list_keys()))))

    async def make() -> Response:
        asked = read_fields(load_object(await json_body()), KeyRequest, refused={})
        wish = NewKey(
            name=asked.name,
            scopes=tuple(asked.scopes),
            owner=asked.owner or "",
            expires_in_s=asked.expires_in_s,
            requests_per_minute=asked.requests_per_minute,
            parallel=asked.parallel,
            tokens_per_day=asked.tokens_per_day,
            trusted=asked.trusted or False,
        )
        made = await answered(cluster.create_key(wish))
        response = json_reply(KeyMade(secret=made.text, key=_row(made.key)), status=201)
        response.headers["cache-control"] = "no-store"
        return response

    async def revoke(key: str) -> Response:
        return json_reply(_row(await answered(cluster.revoke_key(key))))

    routes.add_url_rule("/keys", "listed", listed, methods=["GET"])
    routes.add_url_rule("/keys", "make", make, methods=["POST"])
    routes.add_url_rule("/keys/<key>", "revoke", revoke, methods=["DELETE"])
    return routes


def _row(key: ApiKey) -> KeyRow:
    return KeyRow(
        key_id=key.key_id,
        name=key.name,
        owner=key.owner,
        scopes=key.scopes,
        live=key.is_live(time.time()),
        created_unix_s=key.created_unix_s,
        expires_unix_s=key.expires_unix_s,
        last_used_unix_s=key.last_used_unix_s,
        revoked_unix_s=key.revoked_unix_s,
        requests_per_minute=key.requests_per_minute,
        parallel=key.parallel,
        tokens_per_day=key.tokens_per_day,
        tokens_today=key.tokens_today,
        trusted=key.trusted,
        mine=key.key_id == current_exchange().key_id,
    )
