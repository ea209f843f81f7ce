"""Clients that people have, against a real Chorus with real engines: what they get is computed, not played."""

from __future__ import annotations

from pathlib import Path

import anthropic
import openai
import pytest

from tests.whole.support import cluster

MODEL = "demo-tiny"
EMBEDDER = "all-minilm-l6-v2"
QUESTION = "What is the capital of France?"
PARIS = "The capital of France is Paris."
WEAK = Path(__file__).parents[2] / "docs" / "hardware" / "weak.toml"


@pytest.mark.timeout(180)
def test_openais_and_anthropics_clients_chat_count_embed_and_rank(tmp_path: Path) -> None:
    with cluster(tmp_path) as chorus:
        url = str(chorus.up(f"--hardware={WEAK}").ready()["http_url"])
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
            _chat(client)
            _responses(client)
            _embeddings(client)
        with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
            _messages(client)


def _chat(client: openai.OpenAI) -> None:
    two = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": QUESTION}], temperature=0, n=2, logprobs=True, top_logprobs=2
    )
    assert [choice.message.content for choice in two.choices] == [PARIS, PARIS]
    assert two.choices[1].logprobs is not None
    assert two.choices[1].logprobs.content
    echo = client.completions.create(model=MODEL, prompt="The capital", echo=True, max_tokens=3, temperature=0)
    assert echo.choices[0].text.startswith("The capital")
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt="a", suffix="b", max_tokens=3)
    assert caught.value.param == "suffix"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Hi"}],
            tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        )
    assert caught.value.param == "tools"


def _responses(client: openai.OpenAI) -> None:
    first = client.responses.create(model=MODEL, input=QUESTION, temperature=0)
    assert first.output_text == PARIS
    with client.responses.stream(model=MODEL, input=QUESTION, temperature=0, previous_response_id=first.id) as stream:
        last = list(stream)[-1]
    assert last.type == "response.completed"
    assert first.usage is not None
    assert last.response.usage is not None
    assert last.response.usage.input_tokens > first.usage.input_tokens


def _embeddings(client: openai.OpenAI) -> None:
    found = client.embeddings.create(model=EMBEDDER, input=["A cat.", "A kitten.", "Interest rates."] * 20)
    vectors = [row.embedding for row in found.data]
    assert [len(vector) for vector in vectors] == [384] * 60
    assert vectors[3] == pytest.approx(vectors[0], abs=1e-2)
    ranked = client.post(
        "/rerank",
        cast_to=dict[str, object],
        body={"model": EMBEDDER, "query": "a small cat", "documents": ["Interest rates rose.", "A kitten sleeps."]},
    )
    rows = ranked["results"]
    assert isinstance(rows, list)
    assert rows[0]["index"] == 1


def _messages(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(
        model=MODEL, max_tokens=40, messages=[{"role": "user", "content": QUESTION}], extra_body={"temperature": 0}
    )
    (block,) = answer.content
    assert block.type == "text"
    assert block.text == PARIS
    stopped = client.messages.create(
        model=MODEL,
        max_tokens=40,
        messages=[{"role": "user", "content": QUESTION}],
        stop_sequences=["Berlin", "France"],
        extra_body={"temperature": 0},
    )
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "France")
    counted = client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": QUESTION}])
    cached = answer.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == answer.usage.input_tokens + cached
    with client.messages.stream(
        model=MODEL, max_tokens=40, messages=[{"role": "user", "content": QUESTION}], extra_body={"temperature": 0}
    ) as stream:
        assert stream.get_final_text() == PARIS
