from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

from chorus_cli.conversation import Conversation, Wish
from chorus_cli.talk import Talk
from chorus_cli.waiting import Waiting, what_is_waited_for
from chorus_proto.cluster import Call
from chorus_proto.errors import ContextLengthExceeded, NodeLost
from chorus_proto.generation import Delta, Done, Generation, Message, Piece
from chorus_proto.ids import ModelName
from chorus_proto.values import AggregateStrategy, ClusterState, CouncilSummary, Replica, ReplicaReport, ReplicaState
from chorus_server.console import Screen
from tests.support.fake_cluster import MODEL, FakeCluster, council, failing, paris, ready_state, waiting

PLAIN = Screen()
LIVE = Screen(live=True, colour=True)


def talk(cluster: FakeCluster, *lines: str, wish: Wish | None = None, screen: Screen = PLAIN) -> str:
    """What the terminal showed over these lines and the end of the input."""
    written: list[str] = []
    left = list(lines)

    async def read_line(prompt: str) -> str | None:
        return left.pop(0) if left else None

    conversation = Conversation(cluster, wish or Wish())
    asyncio.run(Talk(conversation, cluster, read_line, written.append, screen=screen).run())
    return "".join(written)


def said(call: Call) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in Generation.decoded(call.generation).messages or ()]


def test_every_question_carries_what_was_said_before_and_the_system_prompt() -> None:
    cluster = FakeCluster()
    shown = talk(cluster, "What is the capital?", "And of Spain?", wish=Wish(system="Be brief."))
    assert shown == "The capital is Paris.\nThe capital is Paris.\n"
    assert said(cluster.calls[1]) == [
        ("system", "Be brief."),
        ("user", "What is the capital?"),
        ("assistant", "The capital is Paris."),
        ("user", "And of Spain?"),
    ]
    assert {call.model for call in cluster.calls} == {MODEL}


def test_again_asks_the_last_question_anew_without_its_answer() -> None:
    cluster = FakeCluster()
    talk(cluster, "hello", "/again")
    assert [said(call) for call in cluster.calls] == [[("user", "hello")]] * 2
    assert "nothing was asked yet" in talk(FakeCluster(), "/again")


def test_new_forgets_what_was_said_and_keeps_the_system_prompt() -> None:
    cluster = FakeCluster()
    talk(cluster, "/system Be brief.", "hello", "/new", "hi")
    assert said(cluster.calls[1]) == [("system", "Be brief."), ("user", "hi")]
    assert "system prompt: none" in talk(FakeCluster(), "/system Be brief.", "/system -")


def test_several_lines_between_three_quotes_are_one_question() -> None:
    cluster = FakeCluster()
    talk(cluster, '"""one', "", "/bye is not a command here", 'two"""', "/bye", "never said")
    assert [said(call) for call in cluster.calls] == [[("user", "one\n\n/bye is not a command here\ntwo")]]


def test_a_model_that_no_pc_has_is_refused_with_those_there_are_and_the_one_before_stays() -> None:
    cluster = FakeCluster()
    shown = talk(cluster, "/model nothere", "hello")
    assert "no PC has a model 'nothere'; there are: org/large:8b, tiny:1b" in shown
    assert "chorus models pull" in shown
    assert [call.model for call in cluster.calls] == [MODEL]


def test_a_council_answers_under_its_name_and_says_how_many_agree() -> None:
    cluster = FakeCluster()
    cluster.ask_events = council()
    everybody = CouncilSummary(name=ModelName("council/all"), strategy=AggregateStrategy.VOTE, members="all")
    cluster.shown_state = replace(cluster.shown_state, councils=(everybody,))
    shown = talk(cluster, "/model council/all", "hello", screen=LIVE)
    assert [ask.council for ask in cluster.asks] == ["council/all"]
    assert "agree" in shown.splitlines()[-1]


def test_an_unknown_command_is_not_said_to_the_model() -> None:
    cluster = FakeCluster()
    assert "did you mean /save?" in talk(cluster, "/sav x")
    assert cluster.calls == []


def test_a_model_that_drives_the_terminal_is_shown_and_not_obeyed() -> None:
    async def hostile(call: Call) -> AsyncGenerator[Piece, None]:
        yield Delta("\x1b[2Jgone\r\n")
        yield Done(finish_reason="stop", completion_tokens=1)

    shown = talk(FakeCluster(hostile), "hello")
    assert "\x1b" not in shown
    assert "gone" in shown


def test_what_was_said_before_a_failure_is_kept_and_can_be_asked_again() -> None:
    cluster = FakeCluster(failing(NodeLost("the PC went away"), after=(Delta("The cap"),)))
    shown = talk(cluster, "hello", "go on")
    assert "error: the PC went away" in shown
    assert said(cluster.calls[1])[1] == ("assistant", "The cap")


def test_a_question_whose_answer_failed_can_be_asked_again_and_gives_way_to_the_next_one() -> None:
    cluster = FakeCluster(failing(NodeLost("the PC went away")))
    shown = talk(cluster, "hello", "/again", "anybody there?")
    assert shown.count("error: the PC went away") == 3
    assert [said(call) for call in cluster.calls] == [
        [("user", "hello")],
        [("user", "hello")],
        [("user", "anybody there?")],
    ]


def test_a_conversation_that_became_too_long_is_shortened_and_said_so() -> None:
    async def small(call: Call) -> AsyncGenerator[Piece, None]:
        if len(said(call)) > 2:
            raise ContextLengthExceeded("too long")
        async for piece in paris(call):
            yield piece

    cluster = FakeCluster(small)
    unknown = tuple(replace(model, context_tokens=0) for model in cluster.shown_state.models)
    cluster.shown_state = replace(cluster.shown_state, models=unknown)
    shown = talk(cluster, "one", "two", "three")
    assert shown.count("The capital is Paris.") == 3
    assert "messages no longer fit and were not sent" in shown
    assert said(cluster.calls[-1])[-1] == ("user", "three")


def test_a_stopped_answer_stays_in_the_history() -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        cluster = FakeCluster(waiting(gate, before=(Delta("The cap"),)))
        written: list[str] = []
        lines = ["hello", "go on"]
        session: list[Talk] = []

        async def read_line(prompt: str) -> str | None:
            if len(lines) == 1:
                gate.set()
            return lines.pop(0) if lines else None

        def write(text: str) -> None:
            written.append(text)
            if text == "The cap" and not gate.is_set():
                assert session[0].interrupt()

        session.append(Talk(Conversation(cluster, Wish()), cluster, read_line, write, screen=PLAIN))
        async with asyncio.timeout(10):
            await session[0].run()
        assert "cancelled\n" in written
        assert cluster.calls[0].request_id in cluster.cancelled
        assert said(cluster.calls[1])[:2] == [("user", "hello"), ("assistant", "The cap")]

    asyncio.run(scenario())


def test_a_conversation_is_saved_as_markdown_and_never_over_another_file(tmp_path: Path) -> None:
    path = tmp_path / "talk.md"
    shown = talk(FakeCluster(), "hello", f"/save {path}", f"/save {path}", f"/save {tmp_path}/no/talk.md", "/save")
    assert path.read_text() == "## You\n\nhello\n\n## tiny:1b on attic-pc\n\nThe capital is Paris.\n"
    assert "exists; name another file" in shown
    assert "cannot be written" in shown
    assert "usage: /save FILE" in shown


def test_the_line_after_an_answer_names_model_pc_and_speed_on_a_terminal_only() -> None:
    live = talk(FakeCluster(), "hello", screen=LIVE)
    assert "\x1b[2m(tiny:1b, attic-pc, 2 tokens" in live
    assert "attic-pc" not in talk(FakeCluster(), "hello")


def test_sampling_wishes_reach_the_engine() -> None:
    cluster = FakeCluster()
    talk(cluster, "hello", wish=Wish(sampling=Generation(max_tokens=5, temperature=0.5)))
    generation = Generation.decoded(cluster.calls[0].generation)
    assert (generation.max_tokens, generation.temperature) == (5, 0.5)
    assert generation.messages == (Message(role="user", content="hello"),)


def loading(state: ClusterState, replica: ReplicaState, progress: float | None, busy: int = 0) -> ClusterState:
    report = ReplicaReport(model=MODEL, state=replica, progress=progress, slots=4)
    node = replace(state.nodes[0], replicas=(Replica(report=report, slots_busy=busy),))
    return replace(state, nodes=(node, *state.nodes[1:]))


def test_the_waiting_line_names_a_load_then_the_queue_then_who_reads() -> None:
    state = ready_state()
    name = state.nodes[0].name
    assert what_is_waited_for(loading(state, ReplicaState.LOADING, 0.4), MODEL) == f"tiny:1b loads on {name}, 40%"
    queued = replace(loading(state, ReplicaState.READY, None), waiting=2)
    assert what_is_waited_for(queued, MODEL) == "2 requests wait for a slot"
    assert what_is_waited_for(loading(state, ReplicaState.READY, None, busy=1), MODEL) == f"{name} reads the question"
    assert what_is_waited_for(state, ModelName("other")) == "waiting for the first word"


def test_the_waiting_line_is_wiped_before_the_answer() -> None:
    async def scenario() -> None:
        shown = asyncio.Event()
        written: list[str] = []

        def write(text: str) -> None:
            written.append(text)
            shown.set()

        waiting_line = Waiting(FakeCluster(), MODEL, write)
        waiting_line.begin()
        async with asyncio.timeout(10):
            await shown.wait()
        await waiting_line.end()
        assert written[-1] == "\r\x1b[K"
        assert "waiting for the first word" in written[0]
        await waiting_line.end()

    asyncio.run(scenario())
