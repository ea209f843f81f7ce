"""The parser of server-sent events, with every cut that a network can make."""

from __future__ import annotations

import pytest

from chorus_client.engines.openai_http import request_body
from chorus_client.engines.openai_stream import CompletionStream
from chorus_client.engines.refusals import refusal
from chorus_proto.errors import (
    ContextLengthExceeded,
    EngineFailed,
    EngineUnavailable,
    InvalidRequest,
    UnsupportedParameter,
)
from chorus_proto.generation import Delta, Done, Generation, Message, Piece, Prefilled

USAGE = (
    '{"choices":[],"usage":{"completion_tokens":3,"prompt_tokens":17,"prompt_tokens_details":{"cached_tokens":16}},'
    '"timings":{"cache_n":16,"prompt_n":1,"prompt_per_second":9.0,"predicted_n":3,"predicted_per_second":2500.5}}'
)


def chat(text: str, finish: str = "null") -> str:
    return f'{{"choices":[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":{finish}}}],"model":"m"}}'


ANSWER = "".join(
    f"data: {event}\n\n" for event in [chat("é"), chat("東"), chat("🎵!"), chat("", '"length"'), USAGE, "[DONE]"]
).encode()


def parsed(body: bytes, *, size: int = 1 << 20, stream: CompletionStream | None = None) -> list[Piece]:
    stream = stream or CompletionStream()
    pieces = [p for at in range(0, len(body), size) for p in stream.feed(body[at : at + size])]
    if stream.failure is not None:
        raise stream.failure
    stream.end()
    return pieces


def test_the_stop_sequence_that_ended_the_answer_is_told_as_vllm_and_llama_cpp_do() -> None:
    end = '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"%s}]%s}'
    for choice, event, told in [
        (',"stop_reason":"END"', "", "END"),
        (',"stop_reason":2', "", None),  # the number of an end token
        (',"stop_reason":null', "", None),
        ("", ',"__verbose":{"stopping_word":"END"}', "END"),
        ("", ',"__verbose":{"stopping_word":""}', None),
    ]:
        *_, done = parsed(f"data: {end % (choice, event)}\n\ndata: [DONE]\n\n".encode())
        assert isinstance(done, Done)
        assert (done.finish_reason, done.stop_sequence) == ("stop", told), (choice, event)


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, Delta))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_every_cut_gives_the_same_pieces(size: int, line_end: bytes) -> None:
    pieces = parsed(ANSWER.replace(b"\n", line_end), size=size)
    assert [p.text for p in pieces if isinstance(p, Delta)] == ["é", "東", "🎵!"]
    assert pieces[-1] == Done(
        finish_reason="length",
        prompt_tokens=17,
        completion_tokens=3,
        cached_tokens=16,
        decode_tokens_per_s=2500.5,
    )


def test_comments_other_fields_and_what_follows_the_end_are_ignored() -> None:
    body = b": ping\n\nevent: x\nid: 1\n\n" + ANSWER + ANSWER
    assert text_of(parsed(body)) == "é東🎵!"


def test_a_character_cut_between_two_tokens_is_joined() -> None:
    whole = f"data: {chat('a東b')}\n\n".encode()
    first, second = whole.replace("東b".encode(), b"\xe6\x9d"), whole.replace("a東".encode(), b"\xb1")
    assert text_of(parsed(first + second + b"data: [DONE]\n\n")) == "a東b"


def test_half_a_character_at_the_end_becomes_one_replacement() -> None:
    events = [chat("a~"), chat("", '"stop"'), "[DONE]"]
    body = "".join(f"data: {event}\n\n" for event in events).encode().replace(b"~", b"\xe6")
    assert text_of(parsed(body)) == "a\ufffd"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (f"data: {chat('a')}\n\n", "without"),
        ('data: {"error": {"message": "boom"}}\n\n', "boom"),
        ('error: {"message": "old boom"}\n\n', "old boom"),
        ("data: {nonsense\n\n", "cannot be read"),
        ("data: " + "x" * 3000, "more than 2000"),
        (f"data: {chat('x' * 3000)}\n\n", "more than 2000"),
    ],
)
def test_a_broken_stream_is_an_engine_failure(body: str, words: str) -> None:
    with pytest.raises(EngineFailed, match=words):
        parsed(body.encode(), stream=CompletionStream(most_event_bytes=2000))


def test_the_tokens_before_a_failure_in_one_chunk_are_not_lost() -> None:
    stream = CompletionStream()
    pieces = stream.feed(f'data: {chat("a")}\n\ndata: {{"error": "boom"}}\n\n'.encode())
    assert text_of(pieces) == "a"
    assert stream.failure is not None


def test_an_answer_of_another_model_is_an_engine_failure() -> None:
    with pytest.raises(EngineFailed, match="'m' instead of 'mine'"):
        parsed(ANSWER, stream=CompletionStream(model="mine"))


def test_thoughts_in_their_own_field_are_marked_in_the_text() -> None:
    thoughts = ['{"reasoning_content":"why"}', '{"reasoning_content":" not"}', '{"content":"yes"}', '{"content":"!"}']
    body = "".join(f'data: {{"choices":[{{"delta":{delta}}}]}}\n\n' for delta in thoughts) + "data: [DONE]\n\n"
    assert text_of(parsed(body.encode())) == "<think>why not</think>yes!"


@pytest.mark.parametrize(
    "choices",
    [
        '{"index":0,"delta":{"role":"assistant","content":null},"finish_reason":null}',
        '{"index":0,"text":"","finish_reason":null}',
        "",
    ],
)
def test_the_prompts_progress_comes_before_the_first_token(choices: str) -> None:
    """As llama-server sends it for a chat and for a raw completion, and as our own server of SafeTensors models does;
    cached tokens are among those processed."""
    progress = [
        f'data: {{"choices":[{choices}],"model":"m","prompt_progress":'
        f'{{"total":409,"cache":64,"processed":{done},"time_ms":12}}}}\n\n'
        for done in (64, 128, 409)
    ]
    stream = CompletionStream(model="m")
    assert stream.feed("".join(progress).encode()) == [Prefilled(64, 409), Prefilled(128, 409), Prefilled(409, 409)]
    assert not stream.answering
    assert text_of(parsed(ANSWER, stream=stream)) == "é東🎵!"
    assert stream.answering


def test_progress_is_asked_for_only_where_it_is_known() -> None:
    generation = Generation(prompt="x")
    assert b"return_progress" not in request_body(generation, model="m")[1]
    assert b'"return_progress":true' in request_body(generation, model="m", tell_progress=True)[1]


def test_only_the_fields_that_were_asked_for_are_sent() -> None:
    path, body = request_body(Generation(messages=(Message(role="user", content="x"),), seed=0), model="m")
    assert path == "/v1/chat/completions"
    assert body == (
        b'{"model":"m","stream":true,"stream_options":{"include_usage":true},'
        b'"messages":[{"role":"user","content":"x"}],"seed":0}'
    )


def test_refusals_become_typed_errors_that_name_the_field() -> None:
    too_long = b'{"error":{"message":"no","type":"exceed_context_size_error","n_prompt_tokens":2001,"n_ctx":512}}'
    assert isinstance(error := refusal(400, too_long), ContextLengthExceeded)
    assert "2001" in error.message
    assert "512" in error.message
    wrong = refusal(400, b'{"error":{"message":"Field \'temperature\': type must be number"}}')
    assert isinstance(wrong, InvalidRequest)
    assert wrong.param == "temperature"
    unknown = refusal(400, b'{"error":{"message":"no min_p","param":"min_p","code":"unknown_parameter"}}')
    assert isinstance(unknown, UnsupportedParameter), "another engine may have it"
    assert unknown.param == "min_p"
    assert isinstance(refusal(503, b"Loading"), EngineUnavailable)
    assert isinstance(refusal(500, b"\xff"), EngineFailed)
    assert isinstance(refusal(302, b""), EngineFailed)
