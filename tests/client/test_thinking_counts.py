from __future__ import annotations

import pytest

from chorus_client.thinking.counts import ChannelCounts, CountingSplitter
from chorus_client.thinking.harmony import HarmonySplitter
from chorus_client.thinking.splitter import Channel, Part, Splitter, Unsplit, channels_named, included, merged
from chorus_client.thinking.think_tags import ThinkTagSplitter
from chorus_proto.errors import InvalidRequest


def counted(splitter: Splitter, tokens: list[str]) -> ChannelCounts:
    counting = CountingSplitter(splitter)
    for token in tokens:
        counting.feed(token)
    counting.finish()
    assert counting.counts.total == len(tokens)
    return counting.counts


def test_tokens_of_gpt_oss_are_counted_by_channel_and_markers_apart() -> None:
    tokens = ["<|channel|>", "analysis", "<|message|>", "We", " add", ".", "<|end|>", "<|start|>", "assistant"]
    tokens += ["<|channel|>", "commentary", "<|message|>", "So", ":", "<|end|>", "<|start|>", "assistant"]
    tokens += ["<|channel|>", "final", "<|message|>", "4", "<|return|>"]
    counts = counted(HarmonySplitter(), tokens)
    assert counts == ChannelCounts(analysis=3, commentary=2, final=1, structure=16)
    assert counts.thinking == 5


def test_tokens_of_a_thought_in_tags_are_counted_without_the_tags() -> None:
    tokens = ["<think>", "\n", "a", " <", "b", "</think>", "\n\n", "yes", "", "!", ""]
    assert counted(ThinkTagSplitter(), tokens) == ChannelCounts(analysis=4, final=4, structure=3)


def test_a_tag_that_is_several_tokens_counts_for_nobody() -> None:
    tokens = ["<", "think", ">", "a", "</", "think", ">", "yes"]
    assert counted(ThinkTagSplitter(), tokens) == ChannelCounts(analysis=1, final=1, structure=6)


def test_what_began_like_a_tag_and_is_none_counts_for_its_channel() -> None:
    assert counted(ThinkTagSplitter(), ["<think>", "a", "</", "th", "at"]) == ChannelCounts(analysis=4, structure=1)
    assert counted(ThinkTagSplitter(), ["<", "think"]) == ChannelCounts(final=2)


def test_a_piece_of_several_tokens_and_channels_is_shared_out_by_length() -> None:
    counting = CountingSplitter(ThinkTagSplitter())
    parts = counting.feed("<think>123456</think>123", tokens=9)
    assert parts == [Part(Channel.ANALYSIS, "123456"), Part(Channel.FINAL, "123")]
    assert counting.counts == ChannelCounts(analysis=6, final=3)
    assert counting.channel is Channel.FINAL


def test_a_model_that_does_not_think_has_only_an_answer() -> None:
    assert counted(Unsplit(), ["<think>", "yes", ""]) == ChannelCounts(final=2, structure=1)


def test_only_the_channels_asked_for_are_included() -> None:
    analysis, final = Part(Channel.ANALYSIS, "a"), Part(Channel.FINAL, "b")
    assert included([analysis, final, analysis], channels_named(["final", "commentary"])) == [final]
    assert included([analysis, final], frozenset()) == []


def test_a_channel_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match=r"'thoughts'.*analysis, commentary, final") as refused:
        channels_named(["final", "thoughts"])
    assert refused.value.param == "include_channels"


def test_neighbours_are_merged_by_channel_and_recipient() -> None:
    one, two = Part(Channel.COMMENTARY, "a"), Part(Channel.COMMENTARY, "b", "functions.f")
    assert merged([one, one, two, two, one]) == [
        Part(Channel.COMMENTARY, "aa"),
        Part(Channel.COMMENTARY, "bb", "functions.f"),
        one,
    ]
