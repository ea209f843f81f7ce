"""Mirrors chorus_http/rag/chat_option.py."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from chorus_http.rag.chat_option import Documents
from chorus_proto.ids import ModelName
from chorus_proto.values import ModelSummary

if TYPE_CHECKING:
    from chorus_http.rag.finding import Finder
    from chorus_http.state import StateReader

KNOWN = ModelSummary(name=ModelName("llama3.2:latest"), context_tokens=32_768)


class States:
    async def state(self) -> object:
        return SimpleNamespace(models=(KNOWN,))


@pytest.mark.parametrize(
    ("name", "context_tokens"), [("llama3.2:latest", 32_768), ("llama3.2", 32_768), ("council/all", 0), (None, 0)]
)
def test_the_room_for_passages_is_that_of_the_model_however_its_name_is_written(
    name: str | None, context_tokens: int
) -> None:
    documents = Documents(cast("Finder", None), cast("StateReader", States()))
    found = asyncio.run(documents._model(name))  # pyright: ignore[reportPrivateUsage]  # what the answer does not tell
    assert found.context_tokens == context_tokens
