"""Councils of the configuration, asked under their names as if they were models."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from chorus_proto.cluster import (
    Ask,
    AskDelta,
    AskEvent,
    AskFinished,
    Call,
    CallEvent,
    CallFinished,
    CallOutput,
    CallStarted,
    MemberAnswer,
)
from chorus_proto.errors import EngineFailed, ErrorCode, ModelNotFound, NoAnswer, NoReplica, UnsupportedParameter
from chorus_proto.generation import Generation, Message
from chorus_proto.ids import ModelName, new_request_id
from chorus_proto.values import Dialect, ModelFile, ReplicaState
from chorus_server.coordinator import Coordinator
from chorus_server.council_calls import member_shown
from tests.server.test_dispatch import Scenario, play
from tests.support.clock import FakeClock
from tests.support.fake_node import FakeNode, file_of, hello_of

Json = dict[str, object]

LARGE, MEDIUM, SMALL = "llama3.1:8b", "llama3.2:3b", "llama3.2:1b"


def playing(tmp_path: Path, text: str, scenario: Scenario, **settings: object) -> None:
    path = tmp_path / "councils.toml"
    path.write_text(text, encoding="utf-8")
    play(tmp_path, scenario, councils_file=path, **settings)


def node(coordinator: Coordinator, clock: FakeClock, name: str, model: str, *, slots: int = 4) -> FakeNode:
    one = FakeNode(coordinator, clock, name, hello=hello_of(name, models=(model,)))
    one.ready(model=model, slots=slots)
    return one


def ask_for(council: str, *, within_s: float = 10.0, temperature: float | None = None) -> Ask:
    return Ask(
        request_id=new_request_id(),
        generation=Generation(messages=(Message("user", "Capital of France?"),), temperature=temperature).encoded(),
        prompt_tokens_estimate=1,
        within_s=within_s,
        council=ModelName(council),
    )


async def events_of(coordinator: Coordinator, ask: Ask) -> list[AskEvent]:
    async with aclosing(coordinator.ask(ask)) as events:
        return [event async for event in events]


def last(events: list[AskEvent]) -> AskFinished:
    finished = events[-1]
    assert isinstance(finished, AskFinished)
    shown = b"".join(event.text for event in events if isinstance(event, AskDelta))
    assert shown.decode() == finished.text
    return finished


async def answering(one: FakeNode, *texts: str, prompts: list[Generation] | None = None) -> None:
    """Answer one request after the other with these texts."""
    for text in texts:
        order = await one.next_execute()
        if prompts is not None:
            prompts.append(Generation.decoded(order.generation))
        one.say(order.execution_id, text, 3)
        one.finish(order.execution_id, tokens=3)


async def with_answers(asking: Awaitable[list[AskEvent]], *answers: Awaitable[None]) -> list[AskEvent]:
    """The events of an ask whose members answer meanwhile; members who are never asked are no failure."""
    tasks = [asyncio.ensure_future(one) for one in answers]
    try:
        return await asking
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def test_the_vote_of_one_able_model_outweighs_two_that_are_less_so(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        large = node(coordinator, clock, "large", LARGE)
        small = [node(coordinator, clock, f"small{n}", SMALL) for n in range(2)]
        events = await with_answers(
            events_of(coordinator, ask_for("council/all")),
            answering(large, "Paris."),
            *(answering(one, "Rome") for one in small),
        )
        finished = last(events)
        assert finished.text == "Paris."
        assert finished.agreement == pytest.approx(1 / 3)
        assert 0 < finished.disagreement < 0.5
        weights = {member.node_name: member.weight for member in finished.members}
        assert cast("float", weights["large"]) > 2 * cast("float", weights["small0"])
        assert {member.node_name: member.agrees for member in finished.members} == {
            "large": True,
            "small0": False,
            "small1": False,
        }
        assert finished.usage.completion_tokens == 9

    play(tmp_path, scenario)


def test_members_are_named_by_node_model_and_tag(tmp_path: Path) -> None:
    text = """
    [tags]
    upstairs = ["attic"]
    [council.named]
    members = [{ tag = "upstairs" }, { node = "cellar" }, { model = "llama3.2:3b" }]
    early_stop = false
    [council.small]
    members = [{ tag = "small" }]
    """

    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = {
            name: node(coordinator, clock, name, model)
            for name, model in (("attic", MEDIUM), ("cellar", MEDIUM), ("garage", SMALL), ("office", MEDIUM))
        }
        events = await with_answers(
            events_of(coordinator, ask_for("council/named")),
            *(answering(one, "Paris") for name, one in nodes.items() if name != "garage"),
        )
        assert sorted(member.node_name for member in last(events).members) == ["attic", "cellar", "office"]
        events = await with_answers(
            events_of(coordinator, ask_for("council/small")), answering(nodes["garage"], "Paris")
        )
        assert [member.node_name for member in last(events).members] == ["garage"]
        state = await coordinator.state()
        assert [one.name for one in state.councils] == ["council/all", "council/named", "council/small"]

    playing(tmp_path, text, scenario)


def test_members_far_below_the_best_are_left_out_and_a_panel_is_the_best_few(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = [
            node(coordinator, clock, name, model)
            for name, model in (("l", LARGE), ("m1", MEDIUM), ("m2", MEDIUM), ("m3", MEDIUM), ("s", SMALL))
        ]
        events = await with_answers(
            events_of(coordinator, ask_for("council/three")), *(answering(one, "Paris") for one in nodes)
        )
        assert {member.node_name for member in last(events).members} == {"l", "m1", "m2"}

    playing(tmp_path, "[council.three]\npanel = 3\nearly_stop = false", scenario)


def test_no_more_samples_are_asked_than_the_outcome_needs(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        one = node(coordinator, clock, "attic", LARGE)
        prompts: list[Generation] = []
        asking = events_of(coordinator, ask_for("council/ten", temperature=0))
        finished = last(await with_answers(asking, answering(one, *["Paris"] * 10, prompts=prompts)))
        assert (len(finished.members), finished.spared) == (4, 6)
        assert [prompt.temperature for prompt in prompts] == [0, 0.7, 0.7, 0.7]

    playing(tmp_path, "[council.ten]\nsamples = 10", scenario)


def test_a_contested_outcome_needs_more_samples(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        one = node(coordinator, clock, "attic", LARGE)
        asking = events_of(coordinator, ask_for("council/ten"))
        finished = last(await with_answers(asking, answering(one, "Paris", "Rome", *["Paris"] * 8)))
        assert finished.text == "Paris"
        assert 4 < len(finished.members) < 10

    playing(tmp_path, "[council.ten]\nsamples = 10", scenario)


def test_k_of_n_answers_end_the_wait_and_the_rest_is_named_and_cancelled(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = [node(coordinator, clock, name, LARGE) for name in ("a", "b", "c")]
        asking = asyncio.create_task(events_of(coordinator, ask_for("council/two")))
        slow = nodes[2]
        await slow.next_execute()
        await asyncio.gather(*(answering(one, "Paris") for one in nodes[:2]))
        finished = last(await asking)
        codes = {member.node_name: member.error and member.error.code for member in finished.members}
        assert codes == {"a": None, "b": None, "c": ErrorCode.CANCELLED}
        await slow.next("cancel")

    playing(tmp_path, "[council.two]\nquorum = 2\nearly_stop = false", scenario)


def test_one_slow_member_is_not_waited_for_longer_than_the_others_took_and_a_half(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = [node(coordinator, clock, name, LARGE) for name in ("a", "b", "c")]
        asking = asyncio.create_task(events_of(coordinator, ask_for("council/patient", within_s=600)))
        slow = nodes[2]
        order = await slow.next_execute()
        slow.say(order.execution_id, "Well, Lyon", 2)
        await asyncio.gather(*(answering(one, "Paris") for one in nodes[:2]))
        finished = last(await asking)
        late = next(member for member in finished.members if member.node_name == "c")
        assert late.error is not None
        assert "dropped" in late.error.message
        # What it had said is kept, and counts for nothing.
        assert (late.text, late.weight, late.agrees, late.finish_reason) == ("Well, Lyon", None, None, "")
        assert finished.disagreement == 0
        await slow.next("cancel")

    playing(tmp_path, "[council.patient]\nearly_stop = false", scenario)


def test_who_comes_late_is_shown_beside_the_answer_where_the_council_waits_for_it(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = [node(coordinator, clock, name, LARGE) for name in ("a", "b", "c", "d")]
        asked = [one.next_execute() for one in nodes]
        events: list[AskEvent] = []
        async with aclosing(coordinator.ask(ask_for("council/late"))) as stream:
            orders: list[int] = []
            async for event in stream:
                events.append(event)
                if len(events) == len(nodes):  # all have been asked
                    orders = [order.execution_id for order in await asyncio.gather(*asked)]
                    for one, order in zip(nodes[:2], orders[:2], strict=True):
                        one.say(order, "Paris", 3)
                        one.finish(order, tokens=3)
                if isinstance(event, AskDelta):
                    # The answer has been told, and only now the third one comes; the fourth breaks.
                    nodes[3].fail(orders[3], EngineFailed("broken"))
                    nodes[2].say(orders[2], "Lyon", 3)
                    nodes[2].finish(orders[2], tokens=3)
        finished = last(events)
        assert finished.text == "Paris" and finished.disagreement == 0
        told = {member.node_name: (member.text, member.error and member.error.code) for member in finished.members}
        assert told == {
            "a": ("Paris", None),
            "b": ("Paris", None),
            "c": ("Lyon", ErrorCode.CANCELLED),
            "d": ("", ErrorCode.CANCELLED),
        }
        assert finished.usage.completion_tokens == 9
        shown = [member_shown(member) for member in finished.members]
        assert {str(one["node"]): one.get("late") for one in shown} == {"a": None, "b": None, "c": "whole", "d": None}
        late = [event for event in events if isinstance(event, MemberAnswer) and event.node_name == "c"]
        assert [one.text for one in late] == ["", "Lyon"]

    playing(tmp_path, "[council.late]\nquorum = 2\nearly_stop = false\nlate_within_s = 20", scenario)


def test_nobody_is_waited_for_longer_than_the_late_may_take(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = [node(coordinator, clock, name, LARGE) for name in ("a", "b")]
        asking = asyncio.create_task(events_of(coordinator, ask_for("council/late")))
        await nodes[1].next_execute()
        await answering(nodes[0], "Paris")
        finished = last(await asking)
        assert [member.text for member in finished.members] == ["Paris", ""]
        await nodes[1].next("cancel")

    playing(tmp_path, "[council.late]\nquorum = 1\nearly_stop = false\nlate_within_s = 0.1", scenario)


def test_a_deadline_of_its_own_ends_the_wait(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = [node(coordinator, clock, name, LARGE) for name in ("a", "b")]
        asking = asyncio.create_task(events_of(coordinator, ask_for("council/brisk", within_s=600)))
        await nodes[1].next_execute()
        await answering(nodes[0], "Paris")
        finished = last(await asking)
        codes = {member.node_name: member.error and member.error.code for member in finished.members}
        assert codes == {"a": None, "b": ErrorCode.DEADLINE_EXCEEDED}

    playing(tmp_path, "[council.brisk]\nwithin_s = 0.2\nearly_stop = false", scenario)


def test_a_race_is_told_word_for_word_and_the_losers_are_sent_home(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        quick, slow = (node(coordinator, clock, name, LARGE) for name in ("quick", "slow"))
        node(coordinator, clock, "weak", SMALL)
        asking = asyncio.create_task(events_of(coordinator, ask_for("council/race")))
        order = await quick.next_execute()
        other = await slow.next_execute()
        quick.say(order.execution_id, "Pa")
        await slow.next("cancel")
        slow.say(other.execution_id, "Rome")
        quick.say(order.execution_id, "ris")
        quick.finish(order.execution_id)
        events = await asking
        finished = last(events)
        assert finished.text == "Paris"
        assert [event.text for event in events if isinstance(event, AskDelta)] in ([b"Pa", b"ris"], [b"Paris"])
        codes = {member.node_name: member.error and member.error.code for member in finished.members}
        assert codes == {"quick": None, "slow": ErrorCode.CANCELLED}

    playing(tmp_path, "[council.race]\nstrategy = 'race'", scenario)


def test_a_racer_that_breaks_before_its_first_word_leaves_the_race_to_the_other(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        broken, good = (node(coordinator, clock, name, LARGE) for name in ("broken", "good"))
        asking = asyncio.create_task(events_of(coordinator, ask_for("council/race")))
        broken.fail((await broken.next_execute()).execution_id, EngineFailed("out of coffee"))
        await answering(good, "Paris")
        assert last(await asking).text == "Paris"
        asking = asyncio.create_task(events_of(coordinator, ask_for("council/race")))
        order = await broken.next_execute()
        broken.say(order.execution_id, "Ro")
        await good.next("cancel")
        broken.fail(order.execution_id, EngineFailed("out of coffee"))
        with pytest.raises(EngineFailed):
            await asking

    playing(tmp_path, "[council.race]\nstrategy = 'race'", scenario)


JUDGE = "[council.wise]\nstrategy = 'judge'\njudge = 'llama3.1:8b'\nmembers = [{ model = 'llama3.2:3b' }]"


@pytest.mark.parametrize(
    ("first", "second", "text", "note"),
    [
        ("B", "A", "Rome", ""),
        ("A", "B", "Paris", ""),
        ("A", "A", "Paris", "order of the answers"),
        ("neither", "A", "Rome", ""),
        ("neither", "neither", "Paris", "named no answer"),
    ],
)
def test_a_judge_reads_the_answers_twice_the_second_time_in_reverse_order(
    tmp_path: Path, first: str, second: str, text: str, note: str
) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        judge = node(coordinator, clock, "judge", LARGE)
        members = [node(coordinator, clock, name, MEDIUM) for name in ("a", "b", "c")]
        prompts: list[Generation] = []
        asking = asyncio.create_task(events_of(coordinator, ask_for("council/wise")))
        for member, said in zip(members, ("Paris", "Paris.", "Rome"), strict=True):
            await answering(member, said)
        orders = [await judge.next_execute() for _ in range(2)]
        for order in orders:
            prompt = Generation.decoded(order.generation)
            prompts.append(prompt)
            assert prompt.messages is not None
            forwards = prompt.messages[0].content.index("Paris") < prompt.messages[0].content.index("Rome")
            judge.finish(order.execution_id, first if forwards else second)
        finished = last(await asking)
        assert finished.text == text
        assert note in finished.note
        assert {member.node_name: member.agrees for member in finished.members}["c"] == (text == "Rome")

    playing(tmp_path, JUDGE, scenario)


def test_a_judge_who_fails_or_has_nothing_to_judge_costs_nothing(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        judge = node(coordinator, clock, "judge", LARGE)
        members = [node(coordinator, clock, name, MEDIUM) for name in ("a", "b", "c")]
        asking = asyncio.create_task(events_of(coordinator, ask_for("council/wise")))
        await asyncio.gather(*(answering(member, "Paris") for member in members))
        assert last(await asking).text == "Paris"
        asking = asyncio.create_task(events_of(coordinator, ask_for("council/wise")))
        for member, said in zip(members, ("Paris", "Paris", "Rome"), strict=True):
            await answering(member, said)
        judge.lose()
        finished = last(await asking)
        assert (finished.text, "named no answer" in finished.note) == ("Paris", True)

    playing(tmp_path, JUDGE, scenario, retry_within_s=0.1, queue_within_s=0.2)


def test_a_synthesis_in_two_layers_reads_the_others_and_is_streamed(tmp_path: Path) -> None:
    text = "[council.deep]\nstrategy = 'synthesise'\nlayers = 2\njudge = 'llama3.1:8b'\nmembers = [{ tag = 'medium' }]"

    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        writer = node(coordinator, clock, "writer", LARGE)
        members = [node(coordinator, clock, name, MEDIUM) for name in ("a", "b")]
        prompts: list[Generation] = []
        asking = asyncio.create_task(events_of(coordinator, ask_for("council/deep")))
        await asyncio.gather(
            *(answering(one, f"{n} says", f"{n} again", prompts=prompts) for n, one in enumerate(members))
        )
        order = await writer.next_execute()
        writing = Generation.decoded(order.generation)
        writer.say(order.execution_id, "The capital ")
        writer.finish(order.execution_id, "is Paris.", tokens=1)
        events = await asking
        finished = last(events)
        assert finished.text == "The capital is Paris."
        assert len(finished.members) == 4
        second = prompts[-1].messages
        assert second is not None
        assert "0 says" in second[0].content
        assert "1 says" in second[0].content
        assert writing.messages is not None
        assert "1 again" in writing.messages[0].content
        assert finished.usage.completion_tokens == 13

    playing(tmp_path, text, scenario)


def test_without_a_writer_the_votes_decide(tmp_path: Path) -> None:
    text = "[council.deep]\nstrategy = 'synthesise'\njudge = 'nobody:1b'"

    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        members = [node(coordinator, clock, name, MEDIUM) for name in ("a", "b")]
        events = await with_answers(
            events_of(coordinator, ask_for("council/deep")), *(answering(one, "Paris") for one in members)
        )
        finished = last(events)
        assert finished.text == "Paris"
        assert "nobody:1b" in finished.note

    playing(tmp_path, text, scenario)


def test_the_answer_nearest_to_all_wins_a_semantic_vote(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        members = [node(coordinator, clock, name, MEDIUM) for name in ("a", "b", "c")]
        said = ("Cows eat grass on meadows.", "The capital of France is Paris.", "France has the capital Paris.")
        events = await with_answers(
            events_of(coordinator, ask_for("council/near")),
            *(answering(one, text) for one, text in zip(members, said, strict=True)),
        )
        finished = last(events)
        assert "Paris" in finished.text
        assert 0 < finished.disagreement < 1
        assert "compared by words" in finished.note

    playing(tmp_path, "[council.near]\nstrategy = 'semantic'", scenario)


def test_a_council_with_no_member_alive_says_so(tmp_path: Path) -> None:
    text = "[council.ghost]\nmembers = [{ node = 'ghost' }]"

    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        attic = node(coordinator, clock, "attic", MEDIUM)
        with pytest.raises(NoReplica, match="council/ghost"):
            await events_of(coordinator, ask_for("council/ghost"))
        with pytest.raises(ModelNotFound, match="council/ghost"):
            await events_of(coordinator, ask_for("council/gost"))
        asking = asyncio.create_task(events_of(coordinator, ask_for("council/all")))
        attic.fail((await attic.next_execute()).execution_id, EngineFailed("out of coffee"))
        with pytest.raises(NoAnswer, match="out of coffee"):
            await asking

    playing(tmp_path, text, scenario)


def test_a_council_of_a_model_that_nobody_has_loaded_makes_it_load(tmp_path: Path) -> None:
    text = f"[council.cold]\nmembers = [{{ model = '{SMALL}' }}]"

    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        models: tuple[str | ModelFile, ...] = (file_of(MEDIUM, 10**9), file_of(SMALL, 10**9))
        attic = FakeNode(coordinator, clock, "attic", hello=hello_of("attic", models=models))
        attic.ready(model=MEDIUM)
        asking = asyncio.create_task(events_of(coordinator, ask_for("council/cold")))
        load = (await attic.next("load")).load
        while load.model != SMALL:
            load = (await attic.next("load")).load
        attic.report(ReplicaState.LOADING, model=SMALL)
        attic.ready(model=SMALL)
        await answering(attic, "Paris")
        assert last(await asking).text == "Paris"

    playing(tmp_path, text, scenario)


# Under its name, as a model --------------------------------------------------------------------------------------


def call_for(dialect: Dialect, *, stream: bool, **more: object) -> Call:
    generation = Generation(messages=(Message("user", "Capital of France?"),), include_usage=stream, **more)  # pyright: ignore[reportArgumentType]  # names checked by the struct
    return Call(
        request_id=new_request_id(),
        model=ModelName("council/all"),
        dialect=dialect,
        stream=stream,
        generation=generation.encoded(),
        prompt_tokens_estimate=1,
        within_s=10,
    )


async def called(coordinator: Coordinator, call: Call) -> tuple[list[CallEvent], bytes]:
    async with aclosing(coordinator.submit(call)) as found:
        events = [event async for event in found]
    return events, b"".join(event.payload for event in events if isinstance(event, CallOutput | CallFinished))


def with_two(
    tmp_path: Path, use: Callable[[Coordinator], Awaitable[None]], said: tuple[str, str] = ("Paris", "Paris")
) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = [node(coordinator, clock, name, MEDIUM) for name in ("attic", "cellar")]
        tasks = [asyncio.create_task(answering(one, text)) for one, text in zip(nodes, said, strict=True)]
        try:
            await use(coordinator)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    play(tmp_path, scenario)


def test_a_client_that_knows_nothing_of_councils_reads_one_plain_answer(tmp_path: Path) -> None:
    async def use(coordinator: Coordinator) -> None:
        _, body = await called(coordinator, call_for(Dialect.OPENAI_CHAT, stream=False))
        answer = cast("Json", json.loads(body))
        (choice,) = cast("list[dict[str, Json]]", answer["choices"])
        assert choice["message"]["content"] == "Paris"
        assert choice["finish_reason"] == "stop"
        assert answer["model"] == "council/all"
        assert cast("dict[str, int]", answer["usage"])["completion_tokens"] == 6
        shown = cast("Json", answer["x_council"])
        assert (shown["strategy"], shown["disagreement"]) == ("vote", 0.0)
        members = cast("list[Json]", shown["members"])
        assert sorted(str(member["node"]) for member in members) == ["attic", "cellar"]
        assert all(member["text"] == "Paris" and member["agrees"] for member in members)

    with_two(tmp_path, use)


def test_a_stream_shows_each_member_in_an_extra_field_and_then_the_answer(tmp_path: Path) -> None:
    async def use(coordinator: Coordinator) -> None:
        _, body = await called(coordinator, call_for(Dialect.OPENAI_CHAT, stream=True))
        lines = [line.removeprefix("data: ") for line in body.decode().split("\n\n") if line]
        assert lines[-1] == "[DONE]"
        chunks = [cast("Json", json.loads(line)) for line in lines[:-1]]
        choices = [cast("list[dict[str, Json]]", chunk["choices"]) for chunk in chunks]
        text = "".join(str(one[0]["delta"].get("content", "")) for one in choices if one)
        assert text == "Paris"
        shown = [cast("Json", chunk["x_council"]) for chunk in chunks if "x_council" in chunk]
        assert [list(one) for one in shown[:2]] == [["member"], ["member"]]
        assert shown[-1]["strategy"] == "vote"
        assert "usage" in chunks[-1]

    with_two(tmp_path, use)


def test_plain_text_is_the_answer_and_nothing_else(tmp_path: Path) -> None:
    async def use(coordinator: Coordinator) -> None:
        events, body = await called(coordinator, call_for(Dialect.TEXT, stream=True))
        assert body == "Paris \u2014 oui".encode()
        assert isinstance(events[0], CallStarted)

    with_two(tmp_path, use, ("Paris \u2014 oui", "Paris \u2014 oui"))


def test_what_a_council_cannot_honour_is_refused(tmp_path: Path) -> None:
    async def use(coordinator: Coordinator) -> None:
        with pytest.raises(UnsupportedParameter) as caught:
            await called(coordinator, call_for(Dialect.OPENAI_CHAT, stream=False, logprobs=2))
        assert caught.value.param == "logprobs"

    with_two(tmp_path, use)


def test_a_call_that_may_not_wait_is_refused_when_no_member_has_a_slot(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        one = node(coordinator, clock, "attic", LARGE, slots=1)
        running = asyncio.ensure_future(called(coordinator, call_for(Dialect.TEXT, stream=False)))
        await one.next_execute()
        with pytest.raises(NoAnswer, match="every slot"):
            await called(coordinator, replace(call_for(Dialect.TEXT, stream=False), queue_within_s=0.0))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    play(tmp_path, scenario)


def test_opinions_survive_the_coordinator(tmp_path: Path) -> None:
    async def scenario(coordinator: Coordinator, clock: FakeClock) -> None:
        nodes = [node(coordinator, clock, name, model) for name, model in (("l", LARGE), ("m", MEDIUM), ("s", SMALL))]
        await with_answers(events_of(coordinator, ask_for("council/all")), *(answering(one, "Paris") for one in nodes))
        await coordinator.save()

    async def again(coordinator: Coordinator, clock: FakeClock) -> None:
        await coordinator.remember()
        small = node(coordinator, clock, "s", SMALL)
        large = node(coordinator, clock, "l", LARGE)
        events = await with_answers(
            events_of(coordinator, ask_for("council/all")), answering(small, "Paris"), answering(large, "Paris")
        )
        weights = {member.node_name: member.weight for member in last(events).members}
        assert cast("float", weights["s"]) > 0.615  # ln(0.38 * 3 / 0.62), before it agreed with the others

    play(tmp_path, scenario)
    play(tmp_path, again)
