from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from chorus_cli.fleet import Seen, picture
from chorus_proto.ids import ModelName, NodeId, RequestId
from chorus_proto.queue_state import QueueState, Standing, Waiting
from chorus_proto.values import (
    ClusterState,
    Courtesy,
    Gpu,
    Hardware,
    Node,
    NodeState,
    Priority,
    Replica,
    ReplicaReport,
    ReplicaState,
    Score,
)

GIB = 1 << 30
SMALL = ModelName("demo-small")
ATTIC = Node(
    node_id=NodeId("1"),
    name="attic\x1b[2J",
    client_id="client-attic-1",
    address="10.0.0.2:1",
    state=NodeState.ALIVE,
    hardware=Hardware(os="linux", arch="x86_64", ram_bytes=16 * GIB),
    score=Score(score=61.25, comfortable_parameters=3e9),
    replicas=(Replica(report=ReplicaReport(model=SMALL, state=ReplicaState.LOADING, slots=4, progress=0.4)),),
    tokens_total=1_000,
    ram_available_bytes=4 * GIB,
    cpu_percent=50.0,
)
STATE = ClusterState(version="1.0", epoch=3, uptime_s=3725, nodes=(ATTIC,), finished_total=7)


def drawn(state: ClusterState, queue: QueueState | None = None, *, width: int = 80, **seen: object) -> str:
    console = Console(width=width, force_terminal=False, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(picture(Seen(state, queue or QueueState(), **seen), width))  # pyright: ignore[reportArgumentType]  # named fields
    return capture.get()


def test_a_pc_is_one_line_with_its_load_its_models_and_nothing_that_drives_the_terminal() -> None:
    shown = drawn(STATE, width=100)
    (line,) = [line for line in shown.splitlines() if line.startswith("attic")]
    assert "\x1b" not in shown
    assert "####....  50%" in line
    assert "######..  75%" in line
    assert "demo-small (loading 40%)" in line
    assert line.split()[-1] == "0/4"
    assert "GPU" not in shown


def test_the_speed_is_what_was_generated_between_two_looks() -> None:
    before = replace(STATE, nodes=(replace(ATTIC, tokens_total=900),))
    shown = drawn(STATE, before=before, apart_s=2.0)
    assert "50 tokens/s" in shown
    started_anew = replace(STATE, nodes=(replace(ATTIC, tokens_total=5_000),))
    assert "0 tokens/s" in drawn(STATE, before=started_anew, apart_s=2.0)


def test_a_wide_terminal_says_how_much_is_free_and_the_fullest_gpu_counts() -> None:
    gpus = (
        Gpu(name="a", memory_bytes=8 * GIB, memory_free_bytes=6 * GIB),
        Gpu(name="b", memory_bytes=8 * GIB, memory_free_bytes=GIB),
    )
    state = replace(STATE, nodes=(replace(ATTIC, hardware=replace(ATTIC.hardware, gpus=gpus)),))
    wide = drawn(state, width=140)
    assert "4.0 GiB free" in wide
    assert "1.0 GiB free" in wide
    assert " 88%" in wide
    assert "free" not in drawn(state)


def test_a_polite_pc_says_why_it_rests() -> None:
    polite = replace(STATE, nodes=(replace(ATTIC, courtesy=Courtesy(paused=True, reason="on battery")),))
    assert "polite pause: on battery" in drawn(polite, width=200)


def test_those_who_wait_are_named_and_the_rest_counted() -> None:
    waiting = tuple(
        Waiting(
            request_id=RequestId(str(place)),
            user="ann",
            model=SMALL,
            priority=Priority.INTERACTIVE,
            waited_s=3,
            standing=Standing(position=place, of=9, expected_wait_s=None),
        )
        for place in range(1, 10)
    )
    shown = drawn(STATE, QueueState(waiting_total=9, waiting=waiting))
    assert "1/9" in shown
    assert "6/9" not in shown
    assert "and 4 more" in shown


def test_an_empty_fleet_says_how_a_pc_joins() -> None:
    assert "chorus agent --join" in drawn(replace(STATE, nodes=()), width=200)
