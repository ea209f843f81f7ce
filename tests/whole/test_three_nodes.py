"""Three agents on one machine play a weak, a middle and a strong PC: placement, asking all, one PC lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import openai
import pytest

from tests.support.patience import granted_s
from tests.whole.support import Chorus, Running, cluster, eventually, http

HARDWARE = Path(__file__).parents[2] / "docs" / "hardware"
MODELS = {"weak": "demo-tiny", "middle": "demo-small", "strong": "demo-medium"}

Rows = list[dict[str, object]]


class Three:
    """A hub and three agents, each with its model ready."""

    def __init__(self, chorus: Chorus) -> None:
        self.chorus = chorus
        self.hub = chorus.up("--no-agent")
        told = self.hub.ready()
        self.url = str(told["http_url"])
        self.join = str(told["join"])
        self.agents: dict[str, Running] = {name: self.start_agent(name) for name in MODELS}
        for agent in self.agents.values():
            agent.ready()

    def start_agent(self, name: str) -> Running:
        return self.chorus.agent(name, self.join, f"--hardware={HARDWARE / f'{name}.toml'}")

    def clients(self) -> dict[str, dict[str, object]]:
        rows = cast("Rows", http(f"{self.url}/status").json()["clients"])
        return {str(row["name"]): row for row in rows}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    with cluster(tmp_path_factory.mktemp("three")) as chorus:
        yield Three(chorus)


def test_each_pc_gets_the_largest_model_that_fits_and_that_its_tier_allows(three: Three) -> None:
    clients = three.clients()
    assert {name: row["assigned_model"] for name, row in clients.items()} == MODELS
    scores = {name: cast("float", row["performance_score"]) for name, row in clients.items()}
    assert scores["weak"] < 60 <= scores["middle"] < 80 <= scores["strong"]


def test_the_terminal_prints_the_registration_of_each_client(three: Three) -> None:
    printed = three.hub.output
    for name, model in MODELS.items():
        assert f"Client registered: client-{name}-" in printed
        assert f"Assigned Model: {model}" in printed
    assert "Performance Score: " in printed
    assert "Total Clients: 3" in printed


@pytest.mark.parametrize("strategy", ["first", "concat", "longest", "vote"])
def test_a_query_is_answered_by_all_three_and_aggregated(three: Three, strategy: str) -> None:
    reply = http(
        f"{three.url}/query", {"prompt": "What is the capital of France?", "strategy": strategy, "temperature": 0}
    )
    assert reply.status == 200
    answer = reply.json()
    members = cast("Rows", answer["members"])
    assert {member["node"]: member["model"] for member in members} == MODELS
    for member in members:
        assert "Paris" in str(member["text"])
        assert cast("float", member["seconds"]) > 0
        assert cast("float", member["tokens_per_s"]) > 0
    assert "Paris" in str(answer["answer"])
    assert answer["strategy"] == strategy
    assert answer["missing"] == []


def test_every_model_answers_the_openai_client(three: Three) -> None:
    with openai.OpenAI(base_url=f"{three.url}/v1", api_key="none", max_retries=0) as client:
        ask_all_models(client)


def ask_all_models(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {*MODELS.values(), "council/all"}
    for model in MODELS.values():
        stream = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "What is the capital of Italy?"}],
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == "The capital of Italy is Rome."
        usage = chunks[-1].usage
        assert usage is not None
        assert usage.completion_tokens > 0
    whole = client.chat.completions.create(
        model="demo-tiny",
        messages=[{"role": "user", "content": "Count to 10."}],
        temperature=0,
        seed=1,
        max_completion_tokens=3,
    )
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 3
    completion = client.completions.create(
        model="demo-tiny", prompt="<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", max_tokens=20, stop=["!"]
    )
    assert "!" not in completion.choices[0].text
    with pytest.raises(openai.NotFoundError, match="demo-tiny"):
        client.chat.completions.create(model="demo-tny", messages=[{"role": "user", "content": "Hi"}])
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="demo-tiny", messages=[{"role": "user", "content": "Hi"}], temperature=-1)
    assert caught.value.param == "temperature"


def test_a_council_answers_the_openai_client_like_any_model(three: Three) -> None:
    asked = "What is the capital of Italy?"
    with openai.OpenAI(base_url=f"{three.url}/v1", api_key="none", max_retries=0) as client:
        whole = client.chat.completions.create(
            model="council/all", messages=[{"role": "user", "content": asked}], temperature=0
        )
        assert whole.choices[0].message.content == "The capital of Italy is Rome."
        shown = cast("dict[str, object]", (whole.model_extra or {})["x_council"])
        assert {member["model"] for member in cast("Rows", shown["members"])} == set(MODELS.values())
        assert shown["disagreement"] == 0
        stream = client.chat.completions.create(
            model="council/all", messages=[{"role": "user", "content": asked}], temperature=0, stream=True
        )
        chunks = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "The capital of Italy is Rome."
        told = [cast("dict[str, object]", extra["x_council"]) for chunk in chunks if (extra := chunk.model_extra)]
        assert sum("member" in one for one in told) == 3


def test_a_chat_session_is_answered_by_a_council(three: Three) -> None:
    session = http(f"{three.url}/chat/sessions", {"model": "council/all"}).json()["id"]
    body = {"content": "What is the capital of France?", "temperature": 0}
    message = cast("dict[str, object]", http(f"{three.url}/chat/sessions/{session}/messages", body).json()["message"])
    assert message["content"] == "The capital of France is Paris."
    council = cast("dict[str, dict[str, object]]", message["answer"])["council"]
    assert len(cast("Rows", council["members"])) == 3
    assert http(f"{three.url}/query", {"prompt": "2 + 2 = ?", "model": "council/all"}).json()["strategy"] == "vote"


def test_reassign_says_what_each_pc_holds_and_why(three: Three) -> None:
    answer = http(f"{three.url}/reassign", {}).json()
    rows = cast("Rows", answer["assignments"])
    assert {row["model"] for row in rows} == set(MODELS.values())
    assert all(row["reason"] for row in rows)


def test_metrics_and_readiness_answer(three: Three) -> None:
    assert http(f"{three.url}/readyz").status == 200
    metrics = http(f"{three.url}/metrics").body.decode()
    assert 'chorus_replica_slots_busy{model="demo-tiny",node="weak"}' in metrics


def test_a_pc_that_is_killed_is_named_by_the_query_and_rejoins_by_itself(three: Three) -> None:
    three.agents["middle"].kill()
    eventually(lambda: three.clients()["middle"]["state"] != "alive", within_s=2, what="the hub misses the PC")
    began_s = time.monotonic()
    answer = http(f"{three.url}/query", {"prompt": "What is the capital of France?", "timeout_s": 60}).json()
    assert time.monotonic() - began_s < granted_s(5)
    assert answer["missing"] == ["middle"]
    assert "Paris" in str(answer["answer"])
    eventually(lambda: three.clients()["middle"]["state"] == "dead", within_s=15, what="its lease ends")
    three.agents["middle"] = three.start_agent("middle")
    three.agents["middle"].ready()
    assert three.clients()["middle"]["state"] == "alive"
    assert len(three.clients()) == 3
