"""Mirrors chorus_proto/dialects/{answers,openai_answer,openai_logprobs,calls_made}.py."""

from __future__ import annotations

import json
from typing import TypeAlias, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus_proto.dialects.answers import renderer
from chorus_proto.dialects.openai_answer import SYSTEM_FINGERPRINT
from chorus_proto.generation import Channel, ChannelTokens, Delta, Done, Effort, Generation, ToolCallPart
from chorus_proto.ids import ModelName, RequestId
from chorus_proto.values import Dialect, Timings

Json: TypeAlias = dict[str, object]

DONE = Done(finish_reason="stop", prompt_tokens=7, completion_tokens=2, cached_tokens=3)
TIMINGS = Timings(ttft_s=0.5, duration_s=1.5, prefill_tokens_per_s=14.0, decode_tokens_per_s=1.0)
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 2,
    "total_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 3},
}
LOGPROBS = b'{"content":[{"token":" hi","logprob":-0.5,"bytes":[32],"top_logprobs":[{"token":"x","logprob":-1.5}]}]}'


def rendered(
    dialect: Dialect,
    deltas: list[Delta],
    done: Done = DONE,
    *,
    stream: bool,
    include_usage: bool = False,
    asked: Generation | None = None,
) -> list[bytes]:
    """One item for each delta and one for the end."""
    answer = renderer(
        dialect,
        asked or Generation(include_usage=include_usage),
        stream=stream,
        request_id=RequestId("a" * 24),
        model=ModelName('odd"model'),
        created_unix_s=1_700_000_000,
    )
    return [*(answer.delta(delta) for delta in deltas), answer.done(done, TIMINGS)]


def events(raw: bytes) -> list[Json]:
    assert raw.endswith(b"data: [DONE]\n\n")
    lines = raw.split(b"\n\n")[:-2]
    return [cast("Json", json.loads(line.removeprefix(b"data: "))) for line in lines]


def choice(event: Json) -> Json:
    (only,) = cast("list[Json]", event["choices"])
    return only


def test_text_is_raw_utf8_and_nothing_at_the_end() -> None:
    for stream in (True, False):
        assert rendered(Dialect.TEXT, [Delta("é"), Delta("!")], stream=stream) == ["é".encode(), b"!", b""]


def test_a_chat_stream_is_role_with_the_first_text_then_text_then_the_reason() -> None:
    chunks = events(b"".join(rendered(Dialect.OPENAI_CHAT, [Delta("a"), Delta("b")], stream=True)))
    assert [choice(chunk)["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "a"},
        {"content": "b"},
        {},
    ]
    assert [choice(chunk)["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    for chunk in chunks:
        assert chunk["id"] == "chatcmpl-" + "a" * 24
        assert chunk["object"] == "chat.completion.chunk"
        assert (chunk["model"], chunk["created"]) == ('odd"model', 1_700_000_000)
        assert chunk["system_fingerprint"] == SYSTEM_FINGERPRINT
        assert "usage" not in chunk


def test_the_usage_chunk_comes_last_with_no_choices_and_only_when_asked() -> None:
    for dialect in (Dialect.OPENAI_CHAT, Dialect.OPENAI_COMPLETION):
        chunks = events(b"".join(rendered(dialect, [Delta("a")], stream=True, include_usage=True)))
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"] == USAGE
        assert [chunk["usage"] for chunk in chunks[:-1]] == [None, None]


def test_a_whole_chat_answer_is_one_object_at_the_end() -> None:
    *nothing, body = rendered(Dialect.OPENAI_CHAT, [Delta("a"), Delta("b")], stream=False)
    assert nothing == [b"", b""]
    answer = cast("Json", json.loads(body))
    assert answer["object"] == "chat.completion"
    assert choice(answer)["message"] == {"role": "assistant", "content": "ab", "refusal": None}
    assert choice(answer)["finish_reason"] == "stop"
    assert answer["usage"] == USAGE


def test_completions_have_text_and_their_own_id() -> None:
    chunks = events(b"".join(rendered(Dialect.OPENAI_COMPLETION, [Delta("a"), Delta("b")], stream=True)))
    assert [choice(chunk)["text"] for chunk in chunks] == ["a", "b", ""]
    whole = cast("Json", json.loads(rendered(Dialect.OPENAI_COMPLETION, [Delta("a"), Delta("b")], stream=False)[-1]))
    assert choice(whole)["text"] == "ab"
    for answer in (*chunks, whole):
        assert answer["id"] == "cmpl-" + "a" * 24
        assert answer["object"] == "text_completion"


@pytest.mark.parametrize("dialect", [Dialect.OPENAI_CHAT, Dialect.OPENAI_COMPLETION])
def test_an_answer_without_a_token_is_valid(dialect: Dialect) -> None:
    chunks = events(b"".join(rendered(dialect, [], Done(finish_reason="length"), stream=True)))
    assert choice(chunks[-1])["finish_reason"] == "length"
    if dialect is Dialect.OPENAI_CHAT:
        assert choice(chunks[0])["delta"] == {"role": "assistant", "content": ""}
    body = cast("Json", json.loads(rendered(dialect, [], Done(finish_reason="length"), stream=False)[-1]))
    assert choice(body)["finish_reason"] == "length"


def test_log_probabilities_are_shown_in_each_apis_own_shape() -> None:
    deltas = [Delta(" hi", logprobs=LOGPROBS), Delta(" hi", logprobs=LOGPROBS)]
    token = json.loads(LOGPROBS)["content"][0]
    chunks = events(b"".join(rendered(Dialect.OPENAI_CHAT, deltas, stream=True)))
    assert choice(chunks[0])["logprobs"] == {"content": [token]}
    whole = cast("Json", json.loads(rendered(Dialect.OPENAI_CHAT, deltas, stream=False)[-1]))
    assert choice(whole)["logprobs"] == {"content": [token, token], "refusal": None}
    legacy = {
        "tokens": [" hi"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"x": -1.5}],
        "text_offset": [3],
    }
    chunks = events(b"".join(rendered(Dialect.OPENAI_COMPLETION, deltas, stream=True)))
    assert choice(chunks[1])["logprobs"] == legacy
    whole = cast("Json", json.loads(rendered(Dialect.OPENAI_COMPLETION, deltas, stream=False)[-1]))
    assert cast("Json", choice(whole)["logprobs"])["text_offset"] == [0, 3]


@given(st.lists(st.text(), max_size=6), st.sampled_from([Dialect.OPENAI_CHAT, Dialect.OPENAI_COMPLETION]))
def test_any_text_survives_a_client_that_splits_lines_the_unicode_way(texts: list[str], dialect: Dialect) -> None:
    raw = b"".join(rendered(dialect, [Delta(text) for text in texts], stream=True)).decode()
    chunks = [json.loads(line[6:]) for line in raw.splitlines() if line and line != "data: [DONE]"]
    shown = [c["choices"][0].get("text", c["choices"][0].get("delta", {}).get("content", "")) for c in chunks]
    assert "".join(shown) == "".join(texts)


THOUGHT = [Delta("Hm.", channel=Channel.ANALYSIS), Delta("Psst", channel=Channel.COMMENTARY), Delta("4")]
COUNTED = Done(
    finish_reason="stop",
    prompt_tokens=7,
    completion_tokens=9,
    channel_tokens=ChannelTokens(analysis=3, commentary=1, final=2),
)


def test_thoughts_have_their_own_fields_in_a_whole_answer_and_are_counted() -> None:
    answer = cast("Json", json.loads(rendered(Dialect.OPENAI_CHAT, THOUGHT, COUNTED, stream=False)[-1]))
    assert choice(answer)["message"] == {
        "role": "assistant",
        "content": "4",
        "refusal": None,
        "reasoning_content": "Hm.Psst",
        "reasoning": "Hm.Psst",
    }
    usage = cast("Json", answer["usage"])
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 4}
    assert usage["channel_tokens"] == {"analysis": 3, "commentary": 1, "final": 2}
    assert "reasoning_level" not in answer


def test_thoughts_have_their_own_fields_in_a_stream_and_the_role_comes_with_the_first_of_them() -> None:
    chunks = events(b"".join(rendered(Dialect.OPENAI_CHAT, THOUGHT, COUNTED, stream=True)))
    assert [choice(chunk)["delta"] for chunk in chunks] == [
        {"role": "assistant", "reasoning_content": "Hm.", "reasoning": "Hm."},
        {"reasoning_content": "Psst", "reasoning": "Psst"},
        {"content": "4"},
        {},
    ]


def test_channels_asked_for_by_name_have_a_key_of_their_own_and_others_are_not_shown() -> None:
    asked = Generation(include_channels=(Channel.ANALYSIS, Channel.FINAL), reasoning_effort=Effort.HIGH)
    whole = cast("Json", json.loads(rendered(Dialect.OPENAI_CHAT, THOUGHT, stream=False, asked=asked)[-1]))
    message = cast("Json", choice(whole)["message"])
    assert message["channels"] == {"analysis": "Hm.", "final": "4"}
    assert (message["reasoning"], whole["reasoning_level"]) == ("Hm.", "high")
    chunks = events(b"".join(rendered(Dialect.OPENAI_CHAT, THOUGHT, stream=True, asked=asked)))
    assert [choice(chunk)["delta"] for chunk in chunks] == [
        {"role": "assistant", "reasoning_content": "Hm.", "reasoning": "Hm.", "channel": "analysis"},
        {"content": "4"},
        {},
    ]


def test_tool_calls_are_shown_in_pieces_and_whole() -> None:
    pieces = [
        Delta("", tool_calls=(ToolCallPart(0, id="call_a", name="add"),)),
        Delta("", tool_calls=(ToolCallPart(0, arguments='{"a":'), ToolCallPart(0, arguments="1}"))),
    ]
    end = Done(finish_reason="tool_calls")
    chunks = events(b"".join(rendered(Dialect.OPENAI_CHAT, pieces, end, stream=True)))
    assert [choice(chunk)["delta"] for chunk in chunks] == [
        {
            "role": "assistant",
            "tool_calls": [
                {"index": 0, "id": "call_a", "type": "function", "function": {"name": "add", "arguments": ""}}
            ],
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
        {},
    ]
    whole = cast("Json", json.loads(rendered(Dialect.OPENAI_CHAT, pieces, end, stream=False)[-1]))
    assert choice(whole)["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [{"id": "call_a", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}],
    }


def test_one_of_several_choices_has_its_number_and_leaves_the_end_to_others() -> None:
    asked = Generation(choice=2, choices=3, include_usage=True, answer_id="b" * 24)
    raw = b"".join(rendered(Dialect.OPENAI_CHAT, [Delta("a")], stream=True, asked=asked))
    assert b"[DONE]" not in raw
    chunks = [cast("Json", json.loads(line[6:])) for line in raw.decode().splitlines() if line]
    assert [(chunk["id"], choice(chunk)["index"]) for chunk in chunks] == [("chatcmpl-" + "b" * 24, 2)] * 2


@pytest.mark.parametrize("deltas", [[Delta(" Paris"), Delta(".")], []], ids=["some", "none"])
def test_an_echo_begins_the_text_once(deltas: list[Delta]) -> None:
    asked = Generation(prompt="France:", echo=True)
    text = "France:" + "".join(delta.text for delta in deltas)
    parts = rendered(Dialect.OPENAI_COMPLETION, deltas, stream=True, asked=asked)
    assert "".join(str(choice(event)["text"]) for event in events(b"".join(parts))) == text
    whole = rendered(Dialect.OPENAI_COMPLETION, deltas, stream=False, asked=asked)
    assert choice(cast("Json", json.loads(whole[-1])))["text"] == text


def test_llama_cpps_timings_stand_beside_the_usage() -> None:
    whole = cast("Json", json.loads(rendered(Dialect.OPENAI_CHAT, [Delta("a")], stream=False)[-1]))
    assert whole["timings"] == {
        "cache_n": 3,
        "prompt_n": 4,
        "prompt_ms": 500,
        "prompt_per_second": 14,
        "predicted_n": 2,
        "predicted_ms": 1000,
        "predicted_per_second": 1,
    }
