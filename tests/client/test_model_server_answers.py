"""Answers with thoughts, written down for OpenAI's clients and in seed 004's channels."""

from __future__ import annotations

import json
from typing import cast

import pytest

from chorus_client.model_server.answers import StreamRendering, WholeRendering
from chorus_client.model_server.frames import Ended, Said
from chorus_client.model_server.requests import Asked, read_request
from chorus_client.thinking.counts import CountingSplitter
from chorus_client.thinking.select import splitter_for
from chorus_proto.errors import ClusterError, ErrorCode
from chorus_proto.ids import RequestId
from chorus_proto.values import ThinkingStyle

ID = RequestId("0123456789ab0123456789ab")
HARMONY = (
    *("<|channel|>", "analysis", "<|message|>", "2 and", " 2", "<|end|>"),
    *("<|start|>", "assistant", "<|channel|>", "final", "<|message|>", "4", "."),
)

END = Ended(number=1, finish_reason="stop", prompt_tokens=9, completion_tokens=14, prompt_s=0.003, completion_s=0.013)


def asked(**more: object) -> Asked:
    body = {"model": "m", "messages": [{"role": "user", "content": "2+2?"}]} | more
    return read_request(json.dumps(body).encode(), chat=True)


def whole(what: Asked, pieces: tuple[str, ...], style: ThinkingStyle | None) -> dict[str, object]:
    rendering = WholeRendering(what, splitter(style), ID, 1)
    for piece in pieces:
        assert rendering.said(Said(1, piece, 1)) == b""
    return cast("dict[str, object]", json.loads(rendering.ended(END)))


def splitter(style: ThinkingStyle | None) -> CountingSplitter | None:
    return CountingSplitter(splitter_for(style, prompt="")) if style is not None else None


def message_of(answer: dict[str, object]) -> dict[str, object]:
    return cast("list[dict[str, dict[str, object]]]", answer["choices"])[0]["message"]


def test_gpt_oss_channels_stand_apart_from_the_answer() -> None:
    answer = whole(asked(separate_thinking=True, reasoning="high"), HARMONY, ThinkingStyle.HARMONY)
    assert message_of(answer) == {
        "role": "assistant",
        "content": "4.",
        "refusal": None,
        "reasoning_content": "2 and 2",
        "reasoning": "2 and 2",
        "channels": {"analysis": "2 and 2", "commentary": "", "final": "4."},
    }
    assert answer["reasoning_level"] == "high"
    usage = cast("dict[str, object]", answer["usage"])
    assert usage["thinking_tokens"] == 2
    assert usage["channel_tokens"] == {"analysis": 2, "commentary": 0, "final": 2}
    assert usage["total_tokens"] == 23


def test_without_a_wish_there_is_reasoning_but_no_member_that_clients_do_not_know() -> None:
    message = message_of(whole(asked(), ("<think>", "hm", "</think>", "yes"), ThinkingStyle.TAGS))
    assert message == {
        "role": "assistant",
        "content": "yes",
        "refusal": None,
        "reasoning_content": "hm",
        "reasoning": "hm",
    }


def test_channels_that_were_not_asked_for_are_left_out() -> None:
    message = message_of(whole(asked(include_channels=["final"]), HARMONY, ThinkingStyle.HARMONY))
    assert message == {"role": "assistant", "content": "4.", "refusal": None, "channels": {"final": "4."}}


def test_without_a_splitter_the_text_is_what_the_model_wrote() -> None:
    assert message_of(whole(asked(separate_thinking=False), HARMONY, None))["content"] == "".join(HARMONY)


def test_a_stream_tells_thoughts_and_answer_in_different_fields() -> None:
    rendering = StreamRendering(asked(stream=True, separate_thinking=True), splitter(ThinkingStyle.HARMONY), ID, 1)
    raw = b"".join(rendering.said(Said(1, piece, 1)) for piece in HARMONY) + rendering.ended(END)
    *chunks, done = raw.decode().strip().split("\n\n")
    assert done == "data: [DONE]"
    events = [json.loads(chunk.removeprefix("data: ")) for chunk in chunks]
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content", "") for delta in deltas) == "4."
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "2 and 2"
    assert {delta["channel"] for delta in deltas if "reasoning" in delta} == {"analysis"}
    assert deltas[-1] == {}
    assert events[-1]["timings"]["predicted_per_second"] == pytest.approx(1000)


def test_log_probabilities_of_hidden_tokens_wait_for_the_next_chunk() -> None:
    rendering = StreamRendering(asked(stream=True), splitter(ThinkingStyle.HARMONY), ID, 1)

    def entry(token: str) -> bytes:
        return json.dumps({"content": [{"token": token, "logprob": -1.0}], "refusal": None}).encode()

    raw = b"".join(rendering.said(Said(1, piece, 1, entry(piece))) for piece in HARMONY)
    events = [json.loads(chunk.removeprefix("data: ")) for chunk in raw.decode().strip().split("\n\n")]
    told = [one["token"] for event in events for one in event["choices"][0]["logprobs"]["content"]]
    assert told == list(HARMONY)


@pytest.mark.parametrize(
    ("more", "code", "param"),
    [
        ({"reasoning": "huge"}, ErrorCode.INVALID_REQUEST, "reasoning"),
        ({"reasoning_effort": "huge"}, ErrorCode.INVALID_REQUEST, "reasoning_effort"),
        ({"include_channels": "final"}, ErrorCode.INVALID_REQUEST, "include_channels"),
        ({"separate_thinking": 1}, ErrorCode.INVALID_REQUEST, "separate_thinking"),
        ({"developer_instructions": ["x"]}, ErrorCode.INVALID_REQUEST, "developer_instructions"),
        ({"seperate_thinking": True}, ErrorCode.UNKNOWN_PARAMETER, "seperate_thinking"),
    ],
)
def test_a_bad_field_of_the_seeds_is_named(more: dict[str, object], code: ErrorCode, param: str) -> None:
    with pytest.raises(ClusterError) as caught:
        asked(**more)
    assert (caught.value.code, caught.value.param) == (code, param)


def test_a_raw_completion_has_no_channels() -> None:
    body = json.dumps({"model": "m", "prompt": "x", "separate_thinking": True}).encode()
    with pytest.raises(ClusterError) as caught:
        read_request(body, chat=False)
    assert caught.value.param == "separate_thinking"
