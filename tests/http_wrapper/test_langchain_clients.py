"""LangChain's clients for OpenAI and for Ollama against the real server: they parse as strictly as they like."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import cast

import httpx
import ollama
import openai
import pytest
import tiktoken
from langchain_core.messages import HumanMessage
from langchain_core.runnables import Runnable
from langchain_ollama import ChatOllama, OllamaEmbeddings
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import SecretStr

from chorus_proto.cluster import Call
from chorus_proto.generation import Channel, Delta, Done, Generation, Piece, ToolCallPart
from tests.support.fake_cluster import MODEL, FakeCluster, paris
from tests.support.http_face import http_face

HI = [HumanMessage("What is the capital of France?")]
PARIS = "The capital is Paris."


def with_url(cluster: FakeCluster, use: Callable[[str], None]) -> None:
    """`use` runs in a thread: the clients are those that block."""

    async def run() -> None:
        async with http_face(cluster) as server:
            await asyncio.to_thread(use, server.url)

    asyncio.run(run())


@contextmanager
def openai_chat(url: str, **more: object) -> Generator[ChatOpenAI]:
    with httpx.Client(timeout=10, trust_env=False) as client:
        make = cast("Callable[..., ChatOpenAI]", ChatOpenAI)  # its aliases are unknown to checkers
        yield make(model=MODEL, base_url=f"{url}/v1", api_key="none", http_client=client, max_retries=0, **more)


@contextmanager
def ollama_chat(url: str, **more: object) -> Generator[ChatOllama]:
    make = cast("Callable[..., ChatOllama]", ChatOllama)
    chat = make(model=MODEL, base_url=url, **more)
    try:
        yield chat
    finally:
        _close(chat)


def _close(owner: object) -> None:
    cast("ollama.Client", getattr(owner, "_client")).close()  # noqa: B009  # it has no way of its own to close it


def structured(chat: ChatOpenAI | ChatOllama, schema: dict[str, object]) -> object:
    make = cast("Callable[..., Runnable[object, object]]", getattr(chat, "with_structured_output"))  # noqa: B009  # a bare `dict` in its types
    return make(schema, method="json_schema").invoke(HI)


def asked(cluster: FakeCluster) -> Generation:
    return Generation.decoded(cluster.calls[-1].generation)


async def caller(_call: Call) -> AsyncGenerator[Piece, None]:
    yield Delta("Where? ", channel=Channel.ANALYSIS)
    yield Delta("", tool_calls=(ToolCallPart(0, "call_1", "weather", '{"town":'),))
    yield Delta("", tool_calls=(ToolCallPart(0, arguments=' "Paris"}'),))
    yield Done(finish_reason="tool_calls", prompt_tokens=9, completion_tokens=12)


async def vectors(call: Call) -> AsyncGenerator[Piece, None]:
    for _ in Generation.decoded(call.generation).inputs or ():
        yield Delta("[0.6,0.8]\n")
    yield Done(finish_reason="stop", prompt_tokens=2)


def weather(town: str) -> str:
    """Tells the weather of a town."""
    raise AssertionError("nobody calls it here")


def test_chat_openai_renames_max_tokens_and_gets_text_counts_and_pieces() -> None:
    """Traps 5 and 8."""
    cluster = FakeCluster(paris)

    def use(url: str) -> None:
        with openai_chat(url, max_tokens=9, temperature=0.5, stop=["\n"]) as chat:
            told = chat.invoke(HI)
            assert told.content == PARIS
            assert told.usage_metadata is not None
            assert (told.usage_metadata["input_tokens"], told.usage_metadata["output_tokens"]) == (7, 2)
        with openai_chat(url, stream_usage=True) as chat:
            pieces = list(chat.stream(HI))
            assert "".join(str(piece.content) for piece in pieces) == PARIS
            assert [piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata] == [2]
        with openai_chat(url) as chat:
            assert not any(piece.usage_metadata for piece in chat.stream(HI)), "nobody asked for it"

    with_url(cluster, use)
    first = Generation.decoded(cluster.calls[0].generation)
    assert (first.max_tokens, first.temperature, first.stop) == (9, 0.5, ("\n",))


@pytest.mark.parametrize("make", [openai_chat, ollama_chat])
def test_a_bound_tool_is_called_and_thoughts_stay_out_of_the_content(
    make: Callable[[str], AbstractContextManager[ChatOpenAI | ChatOllama]],
) -> None:
    cluster = FakeCluster(caller)

    def use(url: str) -> None:
        with make(url) as chat:
            told = chat.bind_tools([weather]).invoke(HI)  # pyright: ignore[reportUnknownMemberType]  # a bare `Callable`
            assert told.content == ""
            (call,) = told.tool_calls
            assert (call["name"], call["args"]) == ("weather", {"town": "Paris"})

    with_url(cluster, use)
    assert "Tells the weather of a town." in (asked(cluster).tools or "")


def test_structured_output_asks_for_a_schema() -> None:
    async def answer(_call: Call) -> AsyncGenerator[Piece, None]:
        yield Delta('{"capital": "Paris"}')
        yield Done(finish_reason="stop")

    schema: dict[str, object] = {
        "title": "Town",
        "type": "object",
        "properties": {"capital": {"type": "string"}},
        "required": ["capital"],
    }
    cluster = FakeCluster(answer)

    def use(url: str) -> None:
        with openai_chat(url) as chat:
            assert structured(chat, schema) == {"capital": "Paris"}
        with ollama_chat(url) as chat:
            assert structured(chat, schema) == {"capital": "Paris"}

    with_url(cluster, use)
    for call in cluster.calls:
        assert '"capital"' in (Generation.decoded(call.generation).response_format or "")


def test_chat_openai_speaks_the_responses_api() -> None:
    def use(url: str) -> None:
        with openai_chat(url, use_responses_api=True) as chat:
            assert chat.invoke(HI).text == PARIS
            assert "".join(piece.text for piece in chat.stream(HI)) == PARIS

    with_url(FakeCluster(paris), use)


def test_chat_ollama_finds_its_model_in_the_list_and_answers_with_thoughts_apart() -> None:
    def use(url: str) -> None:
        with ollama_chat(url, validate_model_on_init=True, num_predict=9, reasoning=True) as chat:
            told = chat.invoke(HI)
            assert told.content == ""
            assert told.additional_kwargs["reasoning_content"] == "Where? "

    with_url(FakeCluster(caller), use)


def test_embeddings_come_for_texts_and_token_numbers_are_refused_with_the_fix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trap 4: by default LangChain sends the numbers of OpenAI's tokens."""
    letters = tiktoken.Encoding(
        "letters", pat_str=r"[\s\S]", mergeable_ranks={bytes([n]): n for n in range(256)}, special_tokens={}
    )

    def made_up(_name: str) -> tiktoken.Encoding:  # the real ones are downloaded
        return letters

    monkeypatch.setattr(tiktoken, "encoding_for_model", made_up)

    def use(url: str) -> None:
        with httpx.Client(timeout=10, trust_env=False) as client:
            plain = OpenAIEmbeddings(
                model=MODEL,
                base_url=f"{url}/v1",
                api_key=SecretStr("none"),
                http_client=client,
                check_embedding_ctx_length=False,
            )
            assert plain.embed_documents(["a", "b"]) == [[0.6, 0.8], [0.6, 0.8]]
            tokens = OpenAIEmbeddings(
                model=MODEL, base_url=f"{url}/v1", api_key=SecretStr("none"), http_client=client, max_retries=0
            )
            with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as refused:
                tokens.embed_documents(["a"])
            assert refused.value.param == "input"
        own = OllamaEmbeddings(model=MODEL, base_url=url)
        assert own.embed_documents(["a", "b"]) == [[0.6, 0.8], [0.6, 0.8]]
        _close(own)

    with_url(FakeCluster(vectors), use)
