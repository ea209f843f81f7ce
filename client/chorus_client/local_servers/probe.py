"""Asking a server at its port: is it ready, under which name does it serve, with how many slots."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from chorus_client.engines.openai_http import OpenAiHttp
from chorus_proto.errors import EngineUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a ready server says of itself. 0: it does not tell."""

    models: tuple[str, ...]
    slots: int = 0
    context_tokens: int = 0
    locked: bool = False
    """It asks for a key that we do not have."""

    @property
    def is_llama_cpp(self) -> bool:
        """Only llama.cpp's server has /props with slots."""
        return self.slots > 0


class _Row(msgspec.Struct):
    id: str = ""


class _Rows(msgspec.Struct):
    data: list[_Row]


class _Generation(msgspec.Struct):
    n_ctx: int = 0


class _Props(msgspec.Struct):
    default_generation_settings: _Generation = msgspec.field(default_factory=_Generation)
    total_slots: int = 0


async def facts_of(http: OpenAiHttp) -> Facts | None:
    """None when nobody answers, when it is not ready yet, or when it is no server of models.

    llama-server's /health is asked first: it says 503 while the model loads. Servers without /health (404) are ready
    when they list their models.
    """
    try:
        status, _ = await http.get("/health")
        if status not in (200, 401, 403, 404):
            return None
        status, body = await http.get("/v1/models")
        if status in (401, 403):
            return Facts(models=(), locked=True)
        names = tuple(row.id for row in msgspec.json.decode(body, type=_Rows).data if row.id) if status == 200 else ()
        if not names:
            return None
        status, body = await http.get("/props")
        props = msgspec.json.decode(body, type=_Props) if status == 200 else _Props()
    except (EngineUnavailable, msgspec.DecodeError):
        return None
    return Facts(models=names, slots=props.total_slots, context_tokens=props.default_generation_settings.n_ctx)
