"""POST /query: one question to several PCs at once, with the one aggregate that the caller wants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from chorus_proto.cluster import Ask
from chorus_proto.dialects.fields import ModelText, Temperature, Text, TokenLimit, TopP, read_fields
from chorus_proto.dialects.parsed import check_model_name, tokens_estimate
from chorus_proto.dialects.strict_json import load_object
from chorus_proto.errors import InvalidRequest
from chorus_proto.generation import Generation, Message
from chorus_proto.ids import RequestId, is_council
from chorus_proto.values import AggregateStrategy


@dataclass(frozen=True, slots=True)
class ParsedQuery:
    prompt: str
    stream: bool
    ask: Ask


class _Query(msgspec.Struct):
    prompt: Text
    strategy: AggregateStrategy | None = None
    model: ModelText | None = None
    nodes: (
        Annotated[list[Annotated[str, msgspec.Meta(min_length=1, max_length=256)]], msgspec.Meta(max_length=1000)]
        | None
    ) = None
    max_tokens: TokenLimit | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: int | None = None
    system: Text | None = None
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None
    quorum: Annotated[int, msgspec.Meta(ge=1, le=1000)] | None = None
    stream: bool | None = None


def parse_query(raw: bytes, *, request_id: RequestId, within_s: float, user: str = "", key_id: str = "") -> ParsedQuery:
    """A body of POST /query; `within_s` is the longest time one may ask for, and the default.

    Raises InvalidJson, InvalidRequest or UnknownParameter; `param` names the field.
    """
    fields = read_fields(load_object(raw, int64_names=("seed",)), _Query, refused={})
    messages = [Message(role="user", content=fields.prompt)]
    if fields.system:
        messages.insert(0, Message(role="system", content=fields.system))
    generation = Generation(
        messages=tuple(messages),
        max_tokens=fields.max_tokens,
        temperature=fields.temperature,
        top_p=fields.top_p,
        seed=fields.seed,
        # Nodes' answers are compared, and thoughts are not part of them.
        separate_thinking=True,
    )
    model = check_model_name(fields.model) if fields.model else None
    council = model if model is not None and is_council(model) else None
    if council is not None and (fields.nodes or fields.strategy is not None or fields.quorum is not None):
        raise InvalidRequest("A council's definition says who is asked and how; name no more than it.", param="model")
    ask = Ask(
        request_id=request_id,
        generation=generation.encoded(),
        prompt_tokens_estimate=tokens_estimate(sum(len(message.content.encode()) for message in messages)),
        within_s=min(fields.timeout_s or within_s, within_s),
        strategy=fields.strategy or AggregateStrategy.FIRST,
        model=model if council is None else None,
        nodes=tuple(fields.nodes or ()),
        max_tokens=fields.max_tokens,
        quorum=fields.quorum,
        user=user,
        key_id=key_id,
        council=council,
    )
    return ParsedQuery(fields.prompt, bool(fields.stream), ask)


QUERY_FIELDS: type[msgspec.Struct] = _Query
"""For the description of the API: it is made of what checks the requests."""
