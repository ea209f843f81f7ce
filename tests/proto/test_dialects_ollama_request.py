"""Mirrors chorus_proto/dialects/ollama_request.py; what it refuses over HTTP is in tests/http_wrapper."""

from __future__ import annotations

import json

import pytest

from chorus_proto.cluster import FOR_EVER_S
from chorus_proto.dialects.ollama_request import parse_chat, parse_generate, read_keep_alive
from chorus_proto.errors import InvalidRequest
from chorus_proto.generation import Effort
from chorus_proto.values import Dialect

HI = [{"role": "user", "content": "hi"}]


def body(**fields: object) -> bytes:
    return json.dumps({"model": "tiny", **fields}).encode()


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        (None, None),
        (0, 0.0),
        ("0", 0.0),
        (1800, 1800.0),
        (0.5, 0.5),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        (" 24h ", 86_400.0),
        (-1, FOR_EVER_S),
        ("-1m", FOR_EVER_S),
        (1e300, FOR_EVER_S),
        ("999999999999h", FOR_EVER_S),
    ],
)
def test_keep_alive_is_seconds_or_gos_notation_and_negative_means_for_ever(
    told: float | str | None, seconds: float | None
) -> None:
    assert read_keep_alive(told) == (pytest.approx(seconds) if seconds is not None else None)


@pytest.mark.parametrize("told", [True, "soon", "", "5", "m5", "5m!", "--5m", [5], {}, "1e3s"])
def test_what_is_no_duration_is_refused(told: object) -> None:
    if told == "5":
        assert read_keep_alive("5") == 5.0
        return
    with pytest.raises(InvalidRequest) as refused:
        read_keep_alive(told)  # pyright: ignore[reportArgumentType]  # any JSON
    assert refused.value.param == "keep_alive"


def test_a_stream_is_the_default_and_null_is_it_too() -> None:
    for told, stream in ((None, True), (True, True), (False, False)):
        assert parse_chat(body(messages=HI, stream=told)).stream is stream


def test_without_messages_or_a_prompt_there_is_nothing_to_generate() -> None:
    assert parse_chat(body()).generation is None
    assert parse_chat(body(messages=[])).generation is None
    assert parse_generate(body(prompt="")).generation is None
    assert parse_generate(body(system="be brief")).generation is None


def test_options_become_what_an_engine_is_asked() -> None:
    options = {
        "num_predict": 5,
        "temperature": 0.5,
        "top_k": 40,
        "min_p": 0.05,
        "typical_p": 0.7,
        "repeat_penalty": 1.2,
        "repeat_last_n": 33,
        "seed": 7,
        "stop": "END",
    }
    asked = parse_chat(body(messages=HI, options=options, think="high"))
    assert asked.dialect is Dialect.OLLAMA_CHAT
    parsed = asked.generation
    assert parsed is not None
    assert (parsed.max_tokens, parsed.generation.max_tokens) == (5, 5)
    made = parsed.generation
    assert (made.temperature, made.top_k, made.min_p, made.typical_p) == (0.5, 40, 0.05, 0.7)
    assert (made.repeat_penalty, made.repeat_last_n, made.seed, made.stop) == (1.2, 33, 7, ("END",))
    assert made.reasoning_effort is Effort.HIGH


def test_a_format_is_a_schema_or_any_json_object() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    for told, holds in (("json", "json_object"), (schema, '"city"'), ("", None), (None, None)):
        parsed = parse_generate(body(prompt="x", format=told)).generation
        assert parsed is not None
        made = parsed.generation.response_format
        assert (made is None) if holds is None else (made is not None and holds in made)


def test_a_raw_prompt_and_a_gap_to_fill_are_no_chat() -> None:
    raw = parse_generate(body(prompt="x", raw=True)).generation
    gap = parse_generate(body(prompt="def f(", suffix="return 1")).generation
    assert raw is not None and gap is not None
    assert (raw.generation.prompt, raw.generation.messages, raw.generation.separate_thinking) == ("x", None, False)
    assert (gap.generation.prompt, gap.generation.suffix) == ("def f(", "return 1")


def test_calls_go_back_as_ollamas_clients_know_them_with_their_index() -> None:
    calls = [{"function": {"index": place, "name": "add", "arguments": {"a": place}}} for place in range(2)]
    turns = [*HI, {"role": "assistant", "content": "", "tool_calls": calls}, {"role": "tool", "content": "1"}]
    parsed = parse_chat(body(messages=turns)).generation
    assert parsed is not None and parsed.generation.messages is not None
    assert [call.function.arguments for call in parsed.generation.messages[1].tool_calls or ()] == [
        '{"a":0}',
        '{"a":1}',
    ]
