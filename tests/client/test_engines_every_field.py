"""Every field of a generation, on every kind of engine: it is in what the engine is sent, or refused by name.

Those that no engine is sent are done around it; each changes how the answer is written down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

import httpx
import msgspec
import ollama
import pytest

from chorus_client.engines.infill import INFILL_PATH
from chorus_client.engines.ollama import OllamaModel
from chorus_client.engines.ollama_limits import OllamaLimits
from chorus_client.engines.openai_http import request_body
from chorus_client.model_server.requests import read_request
from chorus_client.thinking.separated import separation
from chorus_proto.dialects.answers import renderer
from chorus_proto.errors import EngineFailed, UnknownParameter, UnsupportedParameter
from chorus_proto.generation import (
    Channel,
    Delta,
    Done,
    Effort,
    FunctionCall,
    Generation,
    Message,
    ThoughtField,
    ToolCall,
)
from chorus_proto.ids import ModelName, RequestId
from chorus_proto.values import Dialect, EngineKind, ModelFile, ThinkingStyle, Timings

MODEL = ModelName("tiny:1b")
CHAT = Generation(messages=(Message(role="user", content="Hi"),))
PROMPT = Generation(prompt="Hi")
TOOLS = msgspec.json.encode([{"type": "function", "function": {"name": "f", "parameters": {}}}]).decode()
SCHEMA = '{"type":"json_schema","json_schema":{"name":"a","schema":{"type":"object"}}}'
CALLED = ToolCall("call_1", FunctionCall("f", "{}"))


def changed(base: Generation, **fields: object) -> Generation:
    return msgspec.structs.replace(base, **fields)


WITH_TOOLS = changed(CHAT, tools=TOOLS)
SENT: dict[str, tuple[Generation, Generation]] = {
    "messages": (CHAT, changed(CHAT, messages=(Message(role="user", content="Other"),))),
    "messages.name": (CHAT, changed(CHAT, messages=(Message(role="user", content="Hi", name="ann"),))),
    "messages.tool_calls": (
        changed(CHAT, messages=(Message(role="assistant", content=""),)),
        changed(CHAT, messages=(Message(role="assistant", content="", tool_calls=(CALLED,)),)),
    ),
    "prompt": (PROMPT, changed(PROMPT, prompt="Other")),
    "max_tokens": (CHAT, changed(CHAT, max_tokens=5)),
    "temperature": (CHAT, changed(CHAT, temperature=0.5)),
    "top_p": (CHAT, changed(CHAT, top_p=0.5)),
    "stop": (CHAT, changed(CHAT, stop=("x",))),
    "seed": (CHAT, changed(CHAT, seed=7)),
    "presence_penalty": (CHAT, changed(CHAT, presence_penalty=0.5)),
    "frequency_penalty": (CHAT, changed(CHAT, frequency_penalty=0.5)),
    "logit_bias": (CHAT, changed(CHAT, logit_bias={"5": -10.0})),
    "logprobs": (CHAT, changed(CHAT, logprobs=2)),
    "response_format": (CHAT, changed(CHAT, response_format=SCHEMA)),
    "ignore_end": (CHAT, changed(CHAT, ignore_end=True)),
    "reasoning_effort": (CHAT, changed(CHAT, reasoning_effort=Effort.LOW)),
    "tools": (CHAT, WITH_TOOLS),
    "tool_choice": (WITH_TOOLS, changed(WITH_TOOLS, tool_choice='"required"')),
    "parallel_tool_calls": (WITH_TOOLS, changed(WITH_TOOLS, parallel_tool_calls=False)),
    "suffix": (PROMPT, changed(PROMPT, suffix="!")),
    "top_k": (CHAT, changed(CHAT, top_k=5)),
    "min_p": (CHAT, changed(CHAT, min_p=0.1)),
    "typical_p": (CHAT, changed(CHAT, typical_p=0.5)),
    "repeat_penalty": (CHAT, changed(CHAT, repeat_penalty=1.5)),
    "repeat_last_n": (CHAT, changed(CHAT, repeat_last_n=5)),
}
"""A generation without the field, and one with it."""

SHOWN: dict[str, tuple[Dialect, Generation, Generation]] = {
    "include_usage": (Dialect.OPENAI_CHAT, CHAT, changed(CHAT, include_usage=True)),
    "separate_thinking": (Dialect.OPENAI_CHAT, CHAT, changed(CHAT, separate_thinking=True)),
    "include_channels": (
        Dialect.OPENAI_CHAT,
        changed(CHAT, separate_thinking=True),
        changed(CHAT, separate_thinking=True, include_channels=(Channel.ANALYSIS,)),
    ),
    "thought_field": (
        Dialect.OPENAI_CHAT,
        changed(CHAT, separate_thinking=True),
        changed(CHAT, separate_thinking=True, thought_field=ThoughtField.REASONING),
    ),
    "echo": (Dialect.OPENAI_COMPLETION, PROMPT, changed(PROMPT, echo=True)),
    "choice": (Dialect.OPENAI_CHAT, CHAT, changed(CHAT, choice=1)),
    "choices": (Dialect.OPENAI_CHAT, CHAT, changed(CHAT, choices=2)),
    "answer_id": (Dialect.OPENAI_CHAT, CHAT, changed(CHAT, answer_id="other")),
    "answer_head": (Dialect.OPENAI_RESPONSES, CHAT, changed(CHAT, answer_head='{"user":"ann"}')),
}
EMBEDDING = frozenset({"inputs", "vectors", "dimensions", "cuts_inputs", "ranks"})
"""No text is generated; test_engines_embedding.py has them."""


def llama_server(generation: Generation) -> object:
    return request_body(generation, model=MODEL, tell_progress=True)


def transformers(generation: Generation) -> object:
    path, body = request_body(generation, model=MODEL, tell_progress=True)
    if path == INFILL_PATH:
        raise UnsupportedParameter("it has no such path, which `as_infill_refusal` makes of", param="suffix")
    return read_request(body, chat=generation.messages is not None)


def remote(generation: Generation) -> object:
    return request_body(generation, model=MODEL)


def running_ollama(generation: Generation) -> object:
    sent: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.content)
        return httpx.Response(500, json={"error": "enough"})

    async def run() -> None:
        client = ollama.AsyncClient(host="http://ollama.test", transport=httpx.MockTransport(answer))
        model = OllamaModel(client, MODEL, url="ollama.test", slots=1, context_tokens=64, limits=OllamaLimits())
        try:
            async with aclosing(model.generate(generation)) as pieces:
                with pytest.raises(EngineFailed, match="enough"):
                    await anext(pieces)
        finally:
            await client.close()

    asyncio.run(run())
    return sent


ENGINES: dict[str, Callable[[Generation], object]] = {
    EngineKind.LLAMA_SERVER: llama_server,
    EngineKind.LOCAL_SERVERS: llama_server,  # one that is no llama-server is sent what a remote one is
    EngineKind.TRANSFORMERS: transformers,
    EngineKind.REMOTE: remote,
    EngineKind.OLLAMA: running_ollama,
}
"""What a kind of engine is sent. The scripted one computes nothing of what it is asked."""


def written(dialect: Dialect, generation: Generation, *, stream: bool) -> bytes:
    """The answer of a model that thinks, as the agent writes it down."""
    file = ModelFile(name=MODEL, file_bytes=1, engine=EngineKind.LLAMA_SERVER, thinking=ThinkingStyle.TAGS)
    separated = separation(generation, file)
    render = renderer(
        dialect, generation, stream=stream, request_id=RequestId("r"), model=MODEL, created_unix_s=1_700_000_000
    )
    delta = Delta("<think>So.</think>Hi")
    done = Done(finish_reason="stop", prompt_tokens=1, completion_tokens=5)
    rest = [delta] if separated is None else [*separated.deltas(delta), *separated.ended(done)[0]]
    return b"".join([*map(render.delta, rest), render.done(done, Timings())])


def test_every_field_is_in_one_of_the_tables() -> None:
    named = {name for name in SENT if "." not in name}
    assert named | set(SHOWN) | EMBEDDING == set(Generation.__struct_fields__)
    assert set(ENGINES) | {EngineKind.SCRIPTED} == set(EngineKind)


@pytest.mark.parametrize("field", SENT)
@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_is_sent_the_field_or_refuses_it_by_name(engine: str, field: str) -> None:
    without, with_it = SENT[field]
    send = ENGINES[engine]
    try:
        plain = send(without)
    except UnsupportedParameter as refused:
        assert refused.param == "tools", "what the field is about is refused already"
        return
    try:
        assert send(with_it) != plain
    except (UnsupportedParameter, UnknownParameter) as refused:
        assert refused.param == field


@pytest.mark.parametrize("field", SHOWN)
def test_what_is_done_around_the_engines_changes_the_answer(field: str) -> None:
    dialect, without, with_it = SHOWN[field]
    assert any(written(dialect, without, stream=way) != written(dialect, with_it, stream=way) for way in (True, False))
