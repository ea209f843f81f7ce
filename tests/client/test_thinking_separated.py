"""Mirrors chorus_client/thinking/separated.py and chat_template.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from chorus_client.chat_template import template_of_folder, traits
from chorus_client.thinking.separated import Separated, separation
from chorus_proto.generation import Channel, ChannelTokens, Delta, Done, Effort, Generation, Message, ToolCallPart
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind, ModelFile, ThinkingStyle

ASKED = Generation(messages=(Message(role="user", content="?"),), separate_thinking=True)
FILE = ModelFile(
    name=ModelName("thinker"), file_bytes=1, engine=EngineKind.LLAMA_SERVER, thinking=ThinkingStyle.OPENED_TAGS
)


def texts(deltas: list[Delta]) -> list[tuple[Channel, str]]:
    return [(delta.channel, delta.text) for delta in deltas]


def test_an_answer_is_told_apart_and_its_tokens_are_counted() -> None:
    separated = Separated(ThinkingStyle.TAGS)
    deltas = [one for word in ("<think>", "Hm", "</think>", "4", ".") for one in separated.deltas(Delta(word))]
    assert texts(deltas) == [(Channel.ANALYSIS, "Hm"), (Channel.FINAL, "4"), (Channel.FINAL, ".")]
    rest, done = separated.ended(Done(finish_reason="stop", completion_tokens=5))
    assert rest == []
    assert done.channel_tokens == ChannelTokens(analysis=1, final=2)
    assert done.completion_tokens == 5


def test_what_was_held_back_comes_at_the_end() -> None:
    separated = Separated(ThinkingStyle.OPENED_TAGS)
    assert texts(separated.deltas(Delta("Hm </thi"))) == [(Channel.ANALYSIS, "Hm ")]
    rest, _ = separated.ended(Done(finish_reason="length"))
    assert texts(rest) == [(Channel.ANALYSIS, "</thi")]


def test_log_probabilities_of_markers_come_with_the_next_text() -> None:
    separated = Separated(ThinkingStyle.TAGS)
    one, two = (json.dumps({"content": [{"token": token, "logprob": -1}]}).encode() for token in ("<think>", "Hm"))
    assert separated.deltas(Delta("<think>", logprobs=one)) == []
    (delta,) = separated.deltas(Delta("Hm", logprobs=two))
    assert delta.logprobs is not None
    assert [token["token"] for token in json.loads(delta.logprobs)["content"]] == ["<think>", "Hm"]


def test_a_tool_call_passes_and_what_was_held_back_before_it_too() -> None:
    separated = Separated(ThinkingStyle.TAGS)
    call = Delta("", tool_calls=(ToolCallPart(0, name="add"),))
    assert separated.deltas(Delta("<thi")) == []
    assert separated.deltas(call) == [Delta("<thi", 0), call]


@pytest.mark.parametrize(
    ("asked", "file", "opened"),
    [
        (ASKED, FILE, True),
        (ASKED, replace(FILE, thinking=ThinkingStyle.PLAIN), None),
        (ASKED, replace(FILE, thinking=None), None),
        (ASKED, replace(FILE, thinking=None, engine=EngineKind.OLLAMA), False),
        (ASKED, None, None),
        (Generation(messages=ASKED.messages), FILE, None),
        (Generation(prompt="once", separate_thinking=True), FILE, None),
    ],
    ids=["thinker", "plain", "unknown", "other server", "unknown model", "raw text", "completion"],
)
def test_only_what_may_hold_thoughts_and_is_wanted_so_is_told_apart(
    asked: Generation, file: ModelFile | None, opened: bool | None
) -> None:
    separated = separation(asked, file)
    if separated is None:
        assert opened is None
    else:
        assert (separated.deltas(Delta("x"))[0].channel is Channel.ANALYSIS) is opened


def test_a_thought_that_was_switched_off_is_not_open_where_the_template_can_be_told() -> None:
    asked = Generation(messages=ASKED.messages, separate_thinking=True, reasoning_effort=Effort.NONE)
    for optional, channel in ((True, Channel.FINAL), (False, Channel.ANALYSIS)):
        separated = separation(asked, replace(FILE, thinking_optional=optional))
        assert separated is not None
        assert separated.deltas(Delta("x"))[0].channel is channel


def test_the_template_tells_what_the_model_can_do() -> None:
    told = traits(
        "{% if tools %}{{ tools }}{% endif %}{% if enable_thinking %}<think>{% endif %}", name="x", architecture="y"
    )
    assert (told.thinking, told.thinking_optional, told.tools) == (ThinkingStyle.TAGS, True, True)
    plain = traits("{{ messages }} {{ 'tools' }}", name="x", architecture="y")
    assert (plain.thinking, plain.thinking_optional, plain.tools) == (ThinkingStyle.PLAIN, False, False)
    assert traits(None, name="gpt-oss", architecture="").thinking is ThinkingStyle.HARMONY


def test_the_template_is_found_where_hugging_face_keeps_it(tmp_path: Path) -> None:
    assert template_of_folder(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_bytes(b"{")
    assert template_of_folder(tmp_path) is None
    config.write_text(
        json.dumps({"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]})
    )
    assert template_of_folder(tmp_path) == "d"
    config.write_text(json.dumps({"chat_template": "c"}))
    assert template_of_folder(tmp_path) == "c"
    (tmp_path / "chat_template.jinja").write_text("j")
    assert template_of_folder(tmp_path) == "j"
