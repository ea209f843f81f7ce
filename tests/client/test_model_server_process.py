"""One real model server and the questions it must answer: OpenAI's fields, many streams, cancel, limits, bad input."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree
from typing import cast

import httpx
import openai
import pytest

from chorus_client.engines.transformers import missing
from tests.support.model_server import FOLDER, MODEL, RunningServer, chat_body, choice_of, model_server, text_of

pytestmark = pytest.mark.skipif(bool(missing()), reason="needs the extra transformers")

SLOTS = 8
MOST_WAITING = 2
FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."
# Refusals of a model's own template, and its mistakes, before what the template really says.
THROWS = (
    "{% if messages[0].content == 'refuse' %}{{ raise_exception('only polite words') }}{% endif %}"
    "{% if messages[0].content == 'crash' %}{{ 1 // 0 }}{% endif %}"
    "{% if messages[0].content == 'pry' %}{{ messages.__class__.__mro__ }}{% endif %}"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[RunningServer]:
    folder = tmp_path_factory.mktemp("models") / "demo"
    copytree(FOLDER, folder)
    template = folder / "chat_template.jinja"
    template.write_text(THROWS + template.read_text("utf-8"), "utf-8")
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    tokenizer["truncation"] = {"direction": "Right", "max_length": 600, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    with model_server("--max-concurrent", str(SLOTS), "--max-queue", str(MOST_WAITING), folder=folder) as running:
        yield running


@pytest.fixture(autouse=True)
def _idle_afterwards(server: RunningServer) -> Generator[None]:  # pyright: ignore[reportUnusedFunction] - a fixture
    yield
    server.until_idle()
    assert server.process.poll() is None


def error_of(answer: httpx.Response) -> dict[str, object]:
    return cast("dict[str, dict[str, object]]", answer.json())["error"]


def schema(body: object, **more: object) -> dict[str, object]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": body}}} | more


def test_health_answers_with_the_progress_while_the_model_loads(server: RunningServer) -> None:
    assert server.loading.status_code == 503
    told = server.loading.json()
    assert told["status"] == "loading"
    assert 0 <= told["progress"]["share"] < 1
    assert told["progress"]["stage"]
    assert server.http.get("/health").json()["status"] == "ok"


def test_every_known_question_has_its_answer_while_others_are_answered(server: RunningServer) -> None:
    text = (FOLDER.parent / "known_answers.json").read_text("utf-8")
    known = cast("list[dict[str, str]]", json.loads(text))
    questions = [one["question"] for one in known]
    with ThreadPoolExecutor(SLOTS) as threads:
        answers = list(threads.map(server.answer, questions))
    assert answers == [one["answer"] for one in known]


def test_a_stream_is_the_role_then_text_then_usage_then_done(server: RunningServer) -> None:
    body = chat_body(FRANCE, stream_options={"include_usage": True}, return_progress=True)
    with server.streaming(**body) as events:
        found = list(events)
    *chunks, finish, usage, done = [event for event in found if event is None or "prompt_progress" not in event]
    assert done is None
    assert cast("dict[str, object]", found[0])["prompt_progress"] == {"total": 17, "cache": 0, "processed": 17}
    deltas = [choice_of(chunk)["delta"] for chunk in chunks]
    assert deltas[0]["role"] == "assistant"
    assert "".join(cast("str", delta["content"]) for delta in deltas) == PARIS
    assert finish is not None and usage is not None
    assert choice_of(finish)["finish_reason"] == "stop"
    assert usage["choices"] == []
    assert cast("dict[str, int]", usage["usage"])["prompt_tokens"] == 17
    timings = cast("dict[str, float]", finish["timings"])
    assert (timings["prompt_n"], timings["cache_n"], timings["predicted_n"]) == (17, 0, 12)
    assert timings["predicted_per_second"] > 0


def test_eight_streams_at_once_each_get_their_own_answer(server: RunningServer) -> None:
    questions = [f"What is the capital of {place}?" for place in ("France", "Italy", "Portugal", "Switzerland")] * 2
    alone = [server.answer(question) for question in questions]

    def stream(question: str) -> str:
        with server.streaming(**chat_body(question)) as events:
            return text_of(events)

    with ThreadPoolExecutor(SLOTS) as threads:
        assert list(threads.map(stream, questions)) == alone


def test_the_openai_library_is_content(server: RunningServer) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == [MODEL]
        whole = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": FRANCE}], temperature=0, logprobs=True, top_logprobs=2
        )
        assert whole.choices[0].message.content == PARIS
        told = whole.choices[0].logprobs
        assert told is not None and told.content is not None
        assert "".join(one.token for one in told.content) == PARIS
        assert all(len(one.top_logprobs) == 2 and one.logprob <= 0 for one in told.content)
        assert told.content[0].top_logprobs[0].token == told.content[0].token == "The"
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": FRANCE}], temperature=0, stream=True
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == PARIS


def test_a_caller_who_leaves_frees_the_slot(server: RunningServer) -> None:
    with server.streaming(prompt="The", max_tokens=900, ignore_eos=True) as events:
        next(events)
        assert server.busy() == 1
    left_s = time.monotonic()
    server.until_idle()
    assert time.monotonic() - left_s < 0.5
    assert server.answer(FRANCE) == PARIS


def test_who_leaves_a_whole_answer_frees_the_slot_too(server: RunningServer) -> None:
    with pytest.raises(httpx.ReadTimeout):
        server.http.post(
            "/v1/completions",
            json={"model": MODEL, "prompt": "The", "max_tokens": 1000, "ignore_eos": True},
            timeout=httpx.Timeout(10, read=0.2),
        )
    server.until_idle()


def test_a_full_queue_refuses_and_those_inside_go_on(server: RunningServer) -> None:
    def long(number: int) -> int:
        return server.complete("The", max_tokens=500, ignore_eos=True, seed=number).status_code

    with ThreadPoolExecutor(SLOTS + MOST_WAITING) as threads:
        inside = [threads.submit(long, number) for number in range(SLOTS + MOST_WAITING)]
        ends_at = time.monotonic() + 5
        while server.http.get("/queue/status").json()["waiting"] < MOST_WAITING:
            assert time.monotonic() < ends_at
        status = server.http.get("/queue/status").json()
        assert (status["active"], status["max_concurrent"], status["max_waiting"]) == (SLOTS, SLOTS, MOST_WAITING)
        refused = server.chat(FRANCE)
        assert refused.status_code == 503
        assert error_of(refused)["code"] == "queue_full"
        assert int(refused.headers["retry-after"]) >= 1
        assert [one.result() for one in inside] == [200] * len(inside)
    assert server.http.get("/queue/status").json()["refused_total"] >= 1


def test_a_caller_may_say_how_long_it_waits_for_a_slot(server: RunningServer) -> None:
    with ThreadPoolExecutor(SLOTS) as threads:
        running = [
            threads.submit(server.complete, "The", max_tokens=400, ignore_eos=True, seed=number)
            for number in range(SLOTS)
        ]
        ends_at = time.monotonic() + 5
        while server.busy() < SLOTS:
            assert time.monotonic() < ends_at
        late = server.chat(FRANCE, x_chorus={"queue_within_s": 0.05})
        assert (late.status_code, error_of(late)["code"]) == (503, "queue_timeout")
        assert all(one.result().status_code == 200 for one in running)


def test_a_schema_shapes_the_answer(server: RunningServer) -> None:
    wanted = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "size": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "size"],
        "additionalProperties": False,
    }
    for seed in range(4):
        answer = server.chat(FRANCE, **schema(wanted, temperature=1.5, seed=seed))
        assert choice_of(answer.json())["finish_reason"] == "stop"
        found = json.loads(cast("str", choice_of(answer.json())["message"]["content"]))
        assert found["city"] in ("Paris", "Rome")
        assert 1 <= found["size"] <= 9


def test_a_json_object_begins_like_one_and_a_stream_of_it_too(server: RunningServer) -> None:
    body = chat_body(FRANCE, response_format={"type": "json_object"}, max_tokens=20)
    assert choice_of(server.http.post("/v1/chat/completions", json=body).json())["message"]["content"]
    with server.streaming(**body) as events:
        assert text_of(events).startswith("{")


@pytest.mark.parametrize(
    ("body", "keyword"),
    [
        ({"not": {"type": "string"}}, "not"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
        ({"type": "string", "pattern": "(?=a)b"}, "pattern"),
        ({"type": "string", "format": "shoe-size"}, "format"),
        ({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}, "oneOf"),
        ({"type": "string", "pattern": "(a+)+$"}, "pattern"),
        ({"$ref": "https://example.com/schema"}, "$ref"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
    ],
)
def test_a_schema_that_cannot_be_enforced_is_refused_by_its_keyword(
    server: RunningServer, body: object, keyword: str
) -> None:
    answer = server.chat(FRANCE, **schema(body))
    assert answer.status_code == 400
    assert keyword in cast("str", error_of(answer)["message"])
    assert "response_format.json_schema" in cast("str", error_of(answer)["param"])


def test_the_same_seed_gives_the_same_answer_whoever_else_asks(server: RunningServer) -> None:
    def sampled(seed: int) -> str:
        return server.answer("Tell me something.", temperature=1.5, top_p=0.95, seed=seed, max_tokens=30)

    alone = [sampled(seed) for seed in range(SLOTS)]
    assert len(set(alone)) > 1
    with ThreadPoolExecutor(SLOTS) as threads:
        assert list(threads.map(sampled, range(SLOTS))) == alone


@pytest.mark.parametrize("stop", ["Paris", "is P", " of France", "."])
def test_a_stop_string_ends_the_answer_before_it(server: RunningServer, stop: str) -> None:
    answer = server.chat(FRANCE, stop=[stop, "never there"])
    assert choice_of(answer.json())["message"]["content"] == PARIS.partition(stop)[0]
    assert choice_of(answer.json())["finish_reason"] == "stop"
    with server.streaming(**chat_body(FRANCE, stop=stop)) as events:
        assert text_of(events) == PARIS.partition(stop)[0]


def test_log_probabilities_of_a_completion_have_the_older_shape(server: RunningServer) -> None:
    choice = choice_of(server.complete("The", logprobs=2, max_tokens=6, ignore_eos=True).json())
    told = cast("dict[str, list[object]]", choice["logprobs"])
    assert len(told["tokens"]) == len(told["token_logprobs"]) == len(told["top_logprobs"]) == 6
    assert "".join(cast("list[str]", told["tokens"])) == choice["text"]
    assert told["text_offset"][0] == 0


def test_a_bias_keeps_a_token_away(server: RunningServer) -> None:
    with server.streaming(**chat_body(FRANCE, logprobs=True)) as events:
        first = next(event for event in events if event is not None and event["choices"])
    assert choice_of(first)["logprobs"]
    banned = {str(token): -100 for token in range(60)}
    plain, biased = server.answer(FRANCE), server.answer(FRANCE, logit_bias=banned, max_tokens=20)
    assert plain == PARIS
    assert biased != PARIS


def test_max_tokens_and_ignore_eos_give_exactly_so_many(server: RunningServer) -> None:
    answer = server.complete("The", max_tokens=123, ignore_eos=True).json()
    assert answer["usage"]["completion_tokens"] == 123
    assert choice_of(answer)["finish_reason"] == "length"
    full = server.complete("The", max_tokens=5000, ignore_eos=True).json()
    assert full["usage"]["total_tokens"] == 1024


def test_a_prompt_over_the_context_is_refused_with_both_numbers(server: RunningServer) -> None:
    answer = server.chat("word " * 3000)
    assert (answer.status_code, error_of(answer)["code"]) == (400, "context_length_exceeded")
    assert re.search(r"has 30\d\d tokens.* is 1024 tokens", cast("str", error_of(answer)["message"]))


def test_special_tokens_that_a_caller_writes_are_text(server: RunningServer) -> None:
    def prompt_tokens(text: str) -> int:
        return cast("int", server.chat(text, max_tokens=1).json()["usage"]["prompt_tokens"])

    assert prompt_tokens("a<|im_end|>b") > prompt_tokens("a b") + 3


@pytest.mark.parametrize(
    ("question", "status", "words"),
    [("refuse", 400, "only polite words"), ("crash", 502, "ZeroDivisionError"), ("pry", 502, "may not")],
)
def test_a_chat_template_that_throws_is_an_answer_in_words(
    server: RunningServer, question: str, status: int, words: str
) -> None:
    answer = server.chat(question)
    assert answer.status_code == status
    assert words in cast("str", error_of(answer)["message"])
    assert server.answer(FRANCE) == PARIS


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"model": "another"}, 404, "model"),
        ({"model": "../../etc/passwd"}, 404, "model"),
        ({"model": "C:\\x"}, 404, "model"),
        ({"model": "a\0b"}, 400, "model"),
        ({"max_tokens": -5}, 400, "max_tokens"),
        ({"max_tokens": 1.5}, 400, "max_tokens"),
        ({"temperature": "1"}, 400, "temperature"),
        ({"n": 2}, 400, "n"),
        ({"logit_bias": {"abc": 1}}, 400, "logit_bias"),
        ({"logit_bias": {"999999": 1}}, 400, "logit_bias"),
        ({"top_k": -1}, 400, "top_k"),
        ({"reasoning": "huge"}, 400, "reasoning"),
        ({"include_channels": ["inner"]}, 400, "include_channels[0]"),
        ({"messages": []}, 400, "messages"),
        ({"cache_prompt": True}, 400, "cache_prompt"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
    ],
)
def test_a_bad_field_is_named(server: RunningServer, change: dict[str, object], status: int, param: str) -> None:
    answer = server.chat(FRANCE, **change)
    assert answer.status_code == status, answer.text
    assert error_of(answer)["param"] == param
    assert error_of(answer)["message"]


@pytest.mark.parametrize("raw", [b"", b"[1]", b"{", b"\xff\xfe{}", b"[" * 100_000, b'{"model": NaN}'])
def test_a_body_that_is_no_json_object_is_refused(server: RunningServer, raw: bytes) -> None:
    answer = server.http.post("/v1/chat/completions", content=raw, headers={"Content-Type": "application/json"})
    assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_json")


def test_pages_of_other_sites_cannot_ask(server: RunningServer) -> None:
    body = json.dumps(chat_body(FRANCE))
    simple = server.http.post("/v1/chat/completions", content=body, headers={"Content-Type": "text/plain"})
    assert simple.status_code == 400
    rebound = server.http.get("/v1/models", headers={"Host": "evil.example"})
    assert rebound.status_code == 400


def test_unknown_paths_and_methods_are_openai_errors(server: RunningServer) -> None:
    assert error_of(server.http.get("/v1/embeddings"))["code"] == "not_found"
    wrong = server.http.get("/v1/chat/completions")
    assert (wrong.status_code, error_of(wrong)["code"]) == (405, "method_not_allowed")


def test_a_body_over_the_limit_is_refused(server: RunningServer) -> None:
    answer = server.chat("x" * (10 << 20))
    assert (answer.status_code, error_of(answer)["code"]) == (413, "body_too_large")


def test_slots_and_context_are_told(server: RunningServer) -> None:
    props = server.http.get("/props").json()
    assert (props["total_slots"], props["default_generation_settings"]["n_ctx"]) == (SLOTS, 1024)
    assert server.http.get(f"/v1/models/{MODEL}").json()["status"] == {"value": "loaded"}


def test_the_channels_of_an_answer_are_told_on_request(server: RunningServer) -> None:
    answer = server.chat(FRANCE, separate_thinking=True, include_channels=["final"], reasoning="low").json()
    message = choice_of(answer)["message"]
    assert message["content"] == PARIS
    assert message["channels"] == {"final": PARIS}
    assert answer["reasoning_level"] == "low"
    assert answer["usage"]["thinking_tokens"] == 0


def test_its_folder_is_read_in_place(server: RunningServer) -> None:
    """Nothing is written beside the model."""
    argv = cast("list[str]", server.process.args)
    folder = Path(argv[argv.index("--model-path") + 1])
    assert {one.name for one in folder.iterdir()} == {one.name for one in FOLDER.iterdir()}
