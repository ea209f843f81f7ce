"""What the web page does with PCs and models beyond the other APIs: where a model fits, transfers, waking."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Annotated, TypeVar, cast

import msgspec
from quart import Blueprint, Response, request

from chorus_http.body import json_body
from chorus_http.fits import fits_of
from chorus_http.replies import json_reply
from chorus_http.state import StateReader
from chorus_proto.cluster import Cluster
from chorus_proto.dialects.fields import ModelText, Text, read_fields
from chorus_proto.dialects.strict_json import load_object
from chorus_proto.errors import CoordinatorUnavailable, InvalidRequest
from chorus_proto.transfers import Transfer

_CONTEXT_TOKENS = 4096
_MOST_CONTEXT_TOKENS = 1 << 24
_MOST_SLOTS = 1024

T = TypeVar("T")


class TransferRequest(msgspec.Struct):
    """`model` copies it from a PC that has it, `source` pulls it: a name in the registry, or a .gguf file's URL.

    `node`: where it shall lie, needed for a copy; a pull without it goes to the ablest PC.
    """

    model: ModelText | None = None
    source: Text | None = None
    node: Text | None = None
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{64}$")] | None = None


def fleet_routes(cluster: Cluster, states: StateReader, *, answer_within_s: float) -> Blueprint:
    routes = Blueprint("fleet", __name__)

    async def answered(question: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(answer_within_s):
                return await question
        except TimeoutError:
            raise CoordinatorUnavailable("The coordinator did not answer in time.") from None

    async def fits() -> Response:
        context_tokens = _number("context_tokens", _CONTEXT_TOKENS, _MOST_CONTEXT_TOKENS)
        slots = _number("slots", 1, _MOST_SLOTS)
        return json_reply(fits_of(await states.state(), context_tokens=context_tokens, slots=slots))

    async def transfers() -> Response:
        found = await answered(cluster.transfers())
        return json_reply({"transfers": [_shown(one) for one in found]})

    async def transfer() -> Response:
        asked = read_fields(load_object(await json_body()), TransferRequest, refused={})
        if (asked.model is None) == (asked.source is None):
            raise InvalidRequest("Give either 'model', to copy it, or 'source', to pull it.", param="model")
        if asked.source is not None:
            begun = await answered(cluster.pull_model(asked.source, node=asked.node or "", sha256=asked.sha256 or ""))
        elif asked.node is None:
            raise InvalidRequest("A copy needs 'node': the PC that shall have it.", param="node")
        else:
            begun = await answered(cluster.copy_model(cast("str", asked.model), to=asked.node))
        return json_reply(_shown(begun), status=202)

    async def cancel(transfer_id: str) -> Response:
        return json_reply(_shown(await answered(cluster.cancel_transfer(transfer_id))))

    async def wake(node: str) -> Response:
        woken = await answered(cluster.wake(node))
        sent = len(woken.mac_addresses)
        words = f"{woken.node_name} was sent a packet to wake it." if sent else f"{woken.node_name} is here already."
        return json_reply({"node_id": woken.node_id, "node": woken.node_name, "packets": sent, "message": words})

    routes.add_url_rule("/models/fit", "fits", fits, methods=["GET"])
    routes.add_url_rule("/transfers", "transfers", transfers, methods=["GET"])
    routes.add_url_rule("/transfers", "transfer", transfer, methods=["POST"])
    routes.add_url_rule("/transfers/<transfer_id>", "cancel", cancel, methods=["DELETE"])
    routes.add_url_rule("/nodes/<node>/wake", "wake", wake, methods=["POST"])
    return routes


def _number(name: str, default: int, most: int) -> int:
    """Raises InvalidRequest."""
    text = request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= most):
        raise InvalidRequest(f"Invalid '{name}': expected a whole number from 1 to {most}.", param=name)
    return int(text)


def _shown(transfer: Transfer) -> dict[str, object]:
    error = transfer.error
    return {
        "transfer_id": transfer.transfer_id,
        "kind": transfer.kind,
        "state": transfer.state,
        "model": transfer.model,
        "node_id": transfer.node_id,
        "node": transfer.node_name,
        "source": transfer.source,
        "done_bytes": transfer.done_bytes,
        "total_bytes": transfer.total_bytes,
        "bytes_per_s": transfer.bytes_per_s,
        "share": transfer.share,
        "left_s": transfer.left_s,
        "detail": transfer.detail,
        "error": None if error is None else {"code": error.code, "message": error.message},
    }
