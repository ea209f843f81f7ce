"""A real llama-server with tools, and with text on both sides, on a model whose file says that it knows them."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from chorus_client.chat_template import template_of_header, traits
from chorus_client.engines.base import LoadOptions
from chorus_client.engines.llama_server import LlamaServerEngine
from chorus_client.engines.served_process import ServedModel
from chorus_client.gguf import read_header
from chorus_proto.dialects.calls_made import CallsMade
from chorus_proto.errors import UnsupportedParameter
from chorus_proto.generation import Delta, Done, FunctionCall, Generation, Message, ToolCall
from tests.client.engine_contract import answered, ask, silent
from tests.support.engines import TINY_PATH, OneFile
from tests.support.gguf_writer import ARRAY, STRING, Array, Raw
from tests.support.pieces import each
from tests.support.retold_gguf import retold, texts_of

TEMPLATE = Path(__file__).parents[1] / "data" / "tools_template.jinja"
MARK = 1000
"""A token that is made to stand for `<tool_call>` and a line end; which one it was does not matter."""
_INT32, _NORMAL, _CONTROL, _USER_DEFINED = 5, 1, 3, 4

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string", "enum": ["Paris"]}},
            "required": ["town"],
        },
    },
}
TOOLS = msgspec.json.encode([WEATHER]).decode()


@contextlib.asynccontextmanager
async def told(folder: Path, changes: Mapping[str, object]) -> AsyncGenerator[ServedModel, None]:
    """The tiny model, whose file says other things of itself."""
    path = retold(TINY_PATH, folder / "told.gguf", changes)
    (file,) = OneFile(path).files()
    about = traits(template_of_header(read_header(path)), name=file.name, architecture="llama")
    engine = LlamaServerEngine(OneFile(path), threads=1)
    model = await engine.load(replace(file, tools=about.tools), LoadOptions(slots=1, context_tokens=1024), silent)
    try:
        yield model
    finally:
        await model.unload()


def that_knows_tools() -> dict[str, object]:
    tokens = texts_of(TINY_PATH, "tokenizer.ggml.tokens")
    tokens[MARK] = "<tool_call>\n"
    types = [_CONTROL] * 3 + [_NORMAL] * (len(tokens) - 3)
    types[MARK] = _USER_DEFINED
    packed = struct.pack(f"<IIQ{len(types)}i", ARRAY, _INT32, len(types), *types)
    return {
        "tokenizer.chat_template": TEMPLATE.read_text("utf-8"),
        "tokenizer.ggml.tokens": Array(STRING, tokens),
        "tokenizer.ggml.token_type": Raw(packed),
    }


def test_a_tool_is_called_in_pieces_and_the_answer_to_it_is_read(tmp_path: Path) -> None:
    async def check() -> None:
        async with told(tmp_path, that_knows_tools()) as model:
            # The tiny model never learnt to call; a bias begins the call and the engine's grammar writes the rest.
            asked = ask(
                "What is the weather in Paris?",
                tools=TOOLS,
                tool_choice='"required"',
                parallel_tool_calls=False,
                logit_bias={str(MARK): 100.0},
                max_tokens=100,
            )
            made = CallsMade()
            done: Done | None = None
            async for piece in each(model.generate(asked)):
                if isinstance(piece, Delta):
                    made.take(piece.tool_calls)
                    assert not piece.text
                elif isinstance(piece, Done):
                    done = piece
            (call,) = made.made()
            assert (call.function.name, msgspec.json.decode(call.function.arguments)) == ("weather", {"town": "Paris"})
            assert call.id
            assert done is not None
            assert done.finish_reason == "tool_calls"
            assert done.completion_tokens > 5

    asyncio.run(check())


def test_the_answer_of_a_tool_reaches_the_model(tmp_path: Path) -> None:
    async def check() -> None:
        async with told(tmp_path, {"tokenizer.chat_template": TEMPLATE.read_text("utf-8")}) as model:
            first = ask("What is the weather in Paris?", tools=TOOLS, max_tokens=5)
            call = ToolCall(id="call_0", function=FunctionCall(name="weather", arguments='{"town": "Paris"}'))
            turns = (
                *(first.messages or ()),
                Message(role="assistant", content="", tool_calls=(call,)),
                Message(role="tool", content="Rain.", tool_call_id=call.id),
            )
            _, alone = await answered(model, first)
            _, told_back = await answered(model, msgspec.structs.replace(first, messages=turns))
            assert told_back.prompt_tokens > alone.prompt_tokens

    asyncio.run(check())


def test_tools_are_refused_by_name_where_the_model_knows_none(tmp_path: Path) -> None:
    async def check() -> None:
        async with told(tmp_path, {}) as model:
            with pytest.raises(UnsupportedParameter, match="knows no tools") as caught:
                await answered(model, ask(tools=TOOLS))
            assert caught.value.param == "tools"

    asyncio.run(check())


def test_a_middle_is_filled_in_between_prompt_and_suffix(tmp_path: Path) -> None:
    ids = {f"tokenizer.ggml.fim_{part}_token_id": number for number, part in enumerate(("pre", "suf", "mid"), 3)}

    async def check() -> None:
        async with told(tmp_path, ids) as model:
            asked = Generation(prompt="def double(x):", suffix="return y", max_tokens=6, temperature=0, ignore_end=True)
            text, done = await answered(model, asked)
            assert text
            assert (done.finish_reason, done.completion_tokens) == ("length", 6)
            longer = msgspec.structs.replace(asked, suffix="return y\nprint(double(2))")
            assert (await answered(model, longer))[1].prompt_tokens > done.prompt_tokens
            with pytest.raises(UnsupportedParameter, match="log-prob"):
                await answered(model, msgspec.structs.replace(asked, logprobs=0))

    asyncio.run(check())


def test_a_suffix_is_refused_by_name_where_the_model_has_no_markers_for_it(tmp_path: Path) -> None:
    async def check() -> None:
        async with told(tmp_path, {}) as model:
            with pytest.raises(UnsupportedParameter, match="cannot fill in the middle") as caught:
                await answered(model, Generation(prompt="a", suffix="b", max_tokens=2))
            assert caught.value.param == "suffix"

    asyncio.run(check())
