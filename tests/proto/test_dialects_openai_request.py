"""Mirrors chorus_proto/dialects/{openai_request,openai_messages,openai_tools,response_format,fields}.py."""

from __future__ import annotations

import json
import time
from typing import TypeAlias

import pytest

from chorus_proto.dialects.openai_request import parse_chat, parse_completion
from chorus_proto.dialects.parsed import ParsedRequest
from chorus_proto.errors import ClusterError, InvalidRequest, UnknownParameter, UnsupportedParameter
from chorus_proto.generation import Channel, Effort, Message
from chorus_proto.values import Dialect, RoutingStrategy

Fields: TypeAlias = dict[str, object]

MESSAGES = [{"role": "user", "content": "hi"}]
OPTIONAL_CHAT = """max_tokens max_completion_tokens temperature top_p stop seed presence_penalty frequency_penalty
    logit_bias logprobs top_logprobs response_format n stream stream_options user metadata store service_tier tools
    functions tool_choice function_call audio modalities prediction web_search_options reasoning_effort verbosity
    reasoning separate_thinking include_channels developer_instructions
    safety_identifier prompt_cache_key prompt_cache_retention parallel_tool_calls x_chorus"""
OPTIONAL_COMPLETION = "max_tokens temperature top_p stop seed logit_bias logprobs n best_of echo suffix stream user"


def chat(**fields: object) -> ParsedRequest:
    return parse_chat(json.dumps({"model": "tiny:1b", "messages": MESSAGES} | fields).encode())


def completion(**fields: object) -> ParsedRequest:
    return parse_completion(json.dumps({"model": "tiny:1b", "prompt": "once"} | fields).encode())


def test_a_chat_request_becomes_a_generation_free_of_the_dialect() -> None:
    parsed = chat(
        max_tokens=5,
        temperature=0,
        top_p=1,
        stop=["a", "b"],
        seed=2**63 - 1,
        presence_penalty=-2,
        frequency_penalty=2,
        logit_bias={"50256": -100},
        logprobs=True,
        top_logprobs=3,
        stream=True,
        stream_options={"include_usage": True},
        user="anna",
        x_chorus={"node": "attic-pc", "strategy": "sticky", "queue_within_s": 0, "ignore_end": True, "within_s": 5},
    )
    assert parsed.dialect is Dialect.OPENAI_CHAT
    assert parsed.stream and parsed.affinity == "anna" and parsed.node == "attic-pc"
    assert parsed.strategy is RoutingStrategy.STICKY
    assert (parsed.queue_within_s, parsed.within_s, parsed.max_tokens) == (0, 5, 5)
    generation = parsed.generation
    assert generation.messages == (Message(role="user", content="hi"),)
    assert (generation.temperature, generation.top_p, generation.seed) == (0, 1, 2**63 - 1)
    assert generation.stop == ("a", "b")
    assert generation.logit_bias == {"50256": -100}
    assert generation.logprobs == 3
    assert generation.include_usage and generation.ignore_end


def test_null_means_the_default_for_every_optional_field() -> None:
    assert chat(**dict.fromkeys(OPTIONAL_CHAT.split())) == chat()
    assert completion(**dict.fromkeys(OPTIONAL_COMPLETION.split())) == completion()


def test_a_completion_has_openais_default_of_16_tokens() -> None:
    parsed = completion()
    assert (parsed.generation.prompt, parsed.generation.max_tokens) == ("once", 16)
    assert completion(prompt=["only one"]).generation.prompt == "only one"
    assert completion(logprobs=5).generation.logprobs == 5


def test_the_prompt_estimate_is_bytes_over_three_rounded_up() -> None:
    assert chat(messages=[{"role": "user", "content": "ééééé"}]).prompt_tokens_estimate == 4
    assert completion(prompt="abcd").prompt_tokens_estimate == 2


def test_roles_and_content_forms_become_plain_turns() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages: list[Fields] = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": parts, "name": "anna"},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": []},
        {"role": "tool", "content": "4", "tool_call_id": "x"},
    ]
    assert chat(messages=messages).generation.messages == (
        Message(role="system", content="be brief"),
        Message(role="user", content="a\nb", name="anna"),
        Message(role="assistant", content=""),
        Message(role="tool", content="4", tool_call_id="x"),
    )


def test_either_name_of_the_token_limit_is_taken_and_two_that_differ_are_refused() -> None:
    assert chat(max_completion_tokens=9).max_tokens == 9
    assert chat(max_tokens=9, max_completion_tokens=9).max_tokens == 9
    with pytest.raises(InvalidRequest) as caught:
        chat(max_tokens=8, max_completion_tokens=9)
    assert caught.value.param == "max_completion_tokens"


def test_response_formats_are_forwarded_as_json() -> None:
    schema = {"type": "object", "properties": {"pattern": {"type": "string"}, "a": {"$ref": "#/$defs/a"}}}
    schema["$defs"] = {"a": {"type": "integer"}}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    assert json.loads(chat(response_format=wanted).generation.response_format or "") == wanted
    assert chat(response_format={"type": "json_object"}).generation.response_format == '{"type":"json_object"}'
    assert chat(response_format={"type": "text"}).generation.response_format is None


def _schema(schema: object) -> Fields:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}


def each(name: str, *values: object, param: str | None = None) -> list[tuple[Fields, str]]:
    return [({name: value}, param or name) for value in values]


def user(content: object) -> Fields:
    return {"messages": [{"role": "user", "content": content}]}


def _tool(parameters: object) -> Fields:
    return {"type": "function", "function": {"name": "add", "parameters": parameters}}


ADD = _tool({"type": "object", "properties": {"a": {"type": "integer"}}})
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}
WRONG_CONTENTS: list[object] = [None, 5, {}, []]
BAD_CHAT: list[tuple[Fields, str]] = [
    *each("temperature", -1, 1e9, "1", True, []),
    *each("max_tokens", 0, -1, 2**31, 1.5, "5", True),
    *each("max_completion_tokens", 0, 2**31),
    *each("top_p", 0, 1.1, "x"),
    *each("presence_penalty", -2.1, 2.1),
    *each("frequency_penalty", -2.1, 2.1),
    *each("stop", "", [""], ["a"] * 5, [1], 1, {}, ["a", None]),
    *each("seed", 1.5, "1", True),
    *each("logit_bias", {"abc": 1}, {"-1": 1}, {"²": 1}, {"1" * 99: 1}, [], 3),
    ({"logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias"),
    ({"logprobs": 1}, "logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"stream": "yes"}, "stream"),
    ({"stream": 1}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": []}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"user": 5}, "user"),
    ({"metadata": {"a": 1}}, "metadata[...]"),
    *each("model", None, 1, "", "a" * 10_240, "a\0b", "a\nb"),
    *each("messages", [], None, "hi", {}, MESSAGES * 2049),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [*MESSAGES, {"content": "x"}]}, "messages[1].role"),
    ({"messages": [{"role": "root", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": 5, "content": "x"}]}, "messages[0].role"),
    *((user(content), "messages[0].content") for content in WRONG_CONTENTS),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [{"type": "poem"}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": {}}]}]}, "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": ["text"]}]}]}, "messages[0].content[0].type"),
    *each("response_format", "json", [], 1),
    *each("response_format", {}, {"type": "xml"}, param="response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name"),
    (_schema(5), "response_format.json_schema.schema"),
    (_schema({"description": "x" * 70_000}), "response_format.json_schema"),
    *(
        (_schema(schema), "response_format.json_schema.schema")
        for schema in (
            {"type": "string", "pattern": "(a+)+$"},
            {"type": "string", "pattern": "a" * 600},
            {"$ref": "http://elsewhere/schema"},
            {"$ref": "#"},
            {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}}}},
            {"$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"items": {"$ref": "#/$defs/a"}}}},
            {"type": "string", "maxLength": 10**9},
            {"type": "array", "minItems": -1},
        )
    ),
    *each("n", 0, 17, "2", True),
    *each("tools", {}, 5, [ADD] * 129),
    *each("tools", ["x"], param="tools[0]"),
    *each("tools", [{"type": "function"}], param="tools[0].function"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [_tool({"pattern": "(a+)+$"})]}, "tools[0].function.parameters"),
    ({"tools": [_tool({"description": "x" * 300_000})]}, "tools"),
    *each("tool_choice", "required", "sometimes", 5),
    ({"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "subtract"}}}, "tool_choice"),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
    *each("reasoning", "deep", 5),
    *each("reasoning_effort", "deep", 5),
    *each("separate_thinking", "yes"),
    ({"include_channels": ["secret"]}, "include_channels[0]"),
    *each("developer_instructions", 5),
    ({"x_chorus": 5}, "x_chorus"),
    ({"x_chorus": {"strategy": "fastest"}}, "x_chorus.strategy"),
    ({"x_chorus": {"queue_within_s": -1}}, "x_chorus.queue_within_s"),
    ({"x_chorus": {"node": ""}}, "x_chorus.node"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_CHAT, ids=lambda v: str(v)[:60])
def test_a_bad_value_is_refused_and_the_field_named(fields: Fields, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        chat(**fields)
    assert caught.value.param == param
    assert param.removesuffix("[...]") in caught.value.message


UNSUPPORTED: list[tuple[Fields, str]] = [
    ({"tools": [{"type": "web_search"}]}, "tools[0]"),
    ({"tools": [ADD], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
    ({"functions": [{}]}, "functions"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {}}, "audio"),
    ({"prediction": {}}, "prediction"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"type": "x", "function": {}}]}]}, "messages[0].tool_calls[0]"),
    ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]},
        "messages[0].content[1]",
    ),
]


@pytest.mark.parametrize(("fields", "param"), UNSUPPORTED, ids=lambda v: str(v)[:60])
def test_what_cannot_be_honoured_is_refused_by_name(fields: Fields, param: str) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        chat(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "fields", [{"n": 1}, {"tools": []}, {"tool_choice": "auto"}, {"modalities": ["text"]}, {"store": True}]
)
def test_a_value_that_asks_for_nothing_passes(fields: Fields) -> None:
    assert chat(**fields) == chat()


def test_an_unknown_field_gets_the_nearest_known_name() -> None:
    with pytest.raises(UnknownParameter, match=r"supplied: temprature\. Did you mean 'temperature'\?") as caught:
        chat(temprature=1)
    assert caught.value.param == "temprature"
    with pytest.raises(UnknownParameter, match=r"x_chorus\.nod\. Did you mean 'x_chorus\.node'"):
        chat(x_chorus={"nod": 1})
    for name in ("n_discard", "n_keep", "id_slot", "cache_prompt", "grammar", "--host"):
        with pytest.raises(UnknownParameter):
            chat(**{name: -1})


@pytest.mark.parametrize(
    ("fields", "param", "error"),
    [
        ({"prompt": None}, "prompt", InvalidRequest),
        ({"prompt": ""}, "prompt", InvalidRequest),
        ({"prompt": []}, "prompt", InvalidRequest),
        ({"prompt": 5}, "prompt", InvalidRequest),
        ({"prompt": [1, 2]}, "prompt", UnsupportedParameter),
        ({"prompt": [[1]]}, "prompt", UnsupportedParameter),
        ({"prompt": ["a", ""]}, "prompt", InvalidRequest),
        ({"prompt": ["a", 1]}, "prompt", UnsupportedParameter),
        ({"prompt": ["a"] * 9, "n": 2}, "n", InvalidRequest),
        ({"echo": True, "logprobs": 1}, "echo", UnsupportedParameter),
        ({"echo": True, "suffix": "b"}, "echo", UnsupportedParameter),
        ({"best_of": 2}, "best_of", UnsupportedParameter),
        ({"separate_thinking": True}, "separate_thinking", UnknownParameter),
        ({"logprobs": 6}, "logprobs", InvalidRequest),
        ({"messages": MESSAGES}, "messages", UnknownParameter),
    ],
    ids=lambda v: str(v)[:40],
)
def test_completions_have_their_own_rules(fields: Fields, param: str, error: type[ClusterError]) -> None:
    with pytest.raises(error) as caught:
        completion(**fields)
    assert caught.value.param == param


def test_a_missing_model_or_prompt_is_named() -> None:
    for raw, name in ((b'{"messages":[]}', "model"), (b'{"model":"a"}', "messages")):
        with pytest.raises(InvalidRequest, match=f"Missing required parameter: '{name}'"):
            parse_chat(raw)


def test_ten_megabytes_of_prompt_are_judged_in_a_moment() -> None:
    raw = json.dumps({"model": "a", "messages": [{"role": "user", "content": "word, " * 1_700_000}]}).encode()
    started = time.process_time()
    assert parse_chat(raw).prompt_tokens_estimate == 3_400_000
    assert time.process_time() - started < 1.0


def test_thoughts_are_told_apart_unless_it_is_switched_off() -> None:
    assert chat().generation.separate_thinking and chat().generation.include_channels is None
    assert not chat(separate_thinking=False).generation.separate_thinking
    assert chat(separate_thinking=True).generation.include_channels == tuple(Channel)
    asked = chat(include_channels=["final", "analysis", "final"]).generation
    assert asked.include_channels == (Channel.FINAL, Channel.ANALYSIS)
    assert not completion().generation.separate_thinking


def test_either_name_of_the_effort_is_taken() -> None:
    assert chat(reasoning="high").generation.reasoning_effort is Effort.HIGH
    assert chat(reasoning_effort="minimal").generation.reasoning_effort is Effort.LOW
    assert chat(reasoning_effort="none").generation.reasoning_effort is Effort.NONE


def test_developer_instructions_follow_the_system_prompt() -> None:
    assert chat(developer_instructions="Be brief.").generation.messages == (
        Message(role="system", content="Be brief."),
        Message(role="user", content="hi"),
    )
    both = chat(messages=[{"role": "system", "content": "Hello."}, *MESSAGES], developer_instructions="Be brief.")
    assert both.generation.messages is not None
    assert both.generation.messages[0].content == "Hello.\n\nBe brief."


def test_several_answers_are_several_runs_with_seeds_of_their_own() -> None:
    parsed = chat(n=3, seed=5)
    runs = (parsed.generation, *parsed.others)
    assert [(run.choice, run.choices, run.seed) for run in runs] == [(0, 3, 5), (1, 3, 6), (2, 3, 7)]
    assert [run.seed for run in chat(n=2).others] == [None]
    prompts = completion(prompt=["a", "b"], n=2)
    assert [(run.prompt, run.choice) for run in (prompts.generation, *prompts.others)] == [
        ("a", 0),
        ("a", 1),
        ("b", 2),
        ("b", 3),
    ]


def test_tools_and_calls_are_forwarded_and_a_named_one_is_required_alone() -> None:
    other = {"type": "function", "function": {"name": "b"}}
    turns = [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    generation = chat(tools=[ADD, other], messages=turns).generation
    assert json.loads(generation.tools or "") == [ADD, other]
    assert generation.tool_choice is None
    assert generation.messages is not None
    (call,) = generation.messages[-1].tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("call_1", "add", '{"a":1}')
    named = chat(tools=[ADD, other], tool_choice={"type": "function", "function": {"name": "b"}}).generation
    assert (json.loads(named.tools or ""), named.tool_choice) == ([other], '"required"')
    assert chat(tools=[ADD], tool_choice="none").generation.tools is None
