"""The reference library itself, asked now. It loads its vocabulary from a folder, never from the network."""

from __future__ import annotations

import os
import random
import re
from datetime import date
from pathlib import Path

import msgspec
import pytest

from chorus_client.thinking.harmony import HarmonySplitter
from chorus_client.thinking.harmony_prompt import Effort, prompt
from chorus_client.thinking.splitter import Channel, Part, merged
from chorus_proto.generation import Message
from tests.support.cut_answers import drawn, same_however_cut

RECORDED = Path(__file__).parents[1] / "data" / "harmony_oracle.json"
_REASON = "needs the vocabulary of openai-harmony: o200k_base.tiktoken in the folder TIKTOKEN_ENCODINGS_BASE"
_FOLDER = os.environ.get("TIKTOKEN_ENCODINGS_BASE", "")
if not (_FOLDER and (Path(_FOLDER) / "o200k_base.tiktoken").is_file()):
    pytest.skip(_REASON, allow_module_level=True)

import openai_harmony as reference  # noqa: E402  # only where it can be used

ENCODING = reference.load_harmony_encoding(reference.HarmonyEncodingName.HARMONY_GPT_OSS)
CHANNELS = {channel.value: channel for channel in Channel}


def read_by_reference(text: str) -> list[Part] | None:
    """None when the reference refuses the text."""
    tokens = ENCODING.encode(text, allowed_special="all")
    try:
        messages = ENCODING.parse_messages_from_completion_tokens(tokens, reference.Role.ASSISTANT)
    except reference.HarmonyError:  # pyright: ignore[reportUnknownMemberType]  # its stub does not type it
        return None
    parts: list[Part] = []
    for message in messages:
        content = message.content[0]
        assert isinstance(content, reference.TextContent)
        recipient = message.recipient or ""
        if recipient and not re.fullmatch(r"[^<]+\.[^<]+", recipient):
            return None  # it takes any odd word of a header for one
        if "<" in (message.content_type or "").removeprefix("<|constrain|>") + (message.author.name or ""):
            return None  # as it does any other marker
        by_role = message.author.role == reference.Role.ASSISTANT and not recipient
        nameless = Channel.FINAL if by_role else Channel.COMMENTARY
        channel = CHANNELS.get(message.channel, Channel.COMMENTARY) if message.channel else nameless
        if content.text:
            parts.append(Part(channel, content.text, "" if recipient in ("all", "assistant", "user") else recipient))
    return merged(parts)


def test_the_recorded_answers_are_the_references() -> None:
    cases = msgspec.json.decode(RECORDED.read_bytes(), type=list[tuple[str, list[tuple[Channel, str, str]]]])
    for text, messages in cases:
        expected = merged(Part(channel, content, recipient) for channel, content, recipient in messages)
        assert read_by_reference(text) == expected, text


def test_every_fuzzed_stream_that_the_reference_reads_is_read_alike() -> None:
    rng = random.Random(8)
    pieces = ("<|start|>assistant", "<|start|>user", "<|channel|>analysis", "<|channel|>final", "<|channel|>commentary")
    pieces += ("<|channel|>other", " to=functions.f", "<|constrain|>json", " <|constrain|>json", " ", "\n")
    pieces += ("<|message|>", "<|message|>", "<|message|>", "<|end|>", "<|end|>", "<|return|>", "<|call|>")
    pieces += ("some text", "é漢😀", "<|", "end|>", "<")
    compared = 0
    for _ in range(6_000):
        text = drawn(rng, pieces, 12)
        expected = read_by_reference(text)
        if expected is None:
            continue
        compared += 1
        assert same_however_cut(HarmonySplitter, text, rng) == expected, text
    assert compared > 300


@pytest.mark.parametrize("effort", list(Effort))
@pytest.mark.parametrize("instructions", ["", "Always respond in riddles"])
def test_prompts_are_the_references_token_for_token(effort: Effort, instructions: str) -> None:
    about = reference.SystemContent.new().with_conversation_start_date("2025-06-28")
    about = about.with_reasoning_effort(reference.ReasoningEffort(effort.value.capitalize()))
    messages = [reference.Message.from_role_and_content(reference.Role.SYSTEM, about)]
    if instructions:
        rules = reference.DeveloperContent.new().with_instructions(instructions)
        messages.append(reference.Message.from_role_and_content(reference.Role.DEVELOPER, rules))
    user, assistant = reference.Role.USER, reference.Role.ASSISTANT
    tool = reference.Author.new(reference.Role.TOOL, "functions.sum")
    messages += [
        reference.Message.from_role_and_content(user, "What is 2 + 2?"),
        reference.Message.from_role_and_content(assistant, "4.").with_channel("final"),
        reference.Message.from_author_and_content(tool, "4").with_recipient("assistant").with_channel("commentary"),
        reference.Message.from_role_and_content(user, "Sure?"),
    ]
    tokens = ENCODING.render_conversation_for_completion(reference.Conversation.from_messages(messages), assistant)
    ours = prompt(
        [
            Message("user", "What is 2 + 2?"),
            Message("assistant", "4."),
            Message("tool", "4", name="sum"),
            Message("user", "Sure?"),
        ],
        effort=effort,
        developer_instructions=instructions,
        today=date(2025, 6, 28),
    )
    assert ENCODING.encode(ours, allowed_special="all") == tokens, (ours, ENCODING.decode(tokens))
