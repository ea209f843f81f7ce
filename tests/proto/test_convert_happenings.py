"""Every kind of event crosses the wire unchanged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chorus_proto import coordinator_pb2
from chorus_proto.convert_happenings import batch_message, of_batch
from chorus_proto.errors import InvalidRequest, NodeLost
from chorus_proto.event_log import Batch, Position
from chorus_proto.happenings import (
    Happening,
    HubEvent,
    LoadTold,
    NodeNews,
    NodeReading,
    NodeTold,
    Outcome,
    QueueTold,
    Readings,
    ReplicaTold,
    RequestEnded,
    RequestStarted,
    TransferTold,
    read_position,
)
from chorus_proto.ids import ModelName, NodeId, RequestId
from chorus_proto.queue_state import ModelQueue, QueueState
from chorus_proto.transfers import Transfer, TransferKind, TransferState
from chorus_proto.values import Hardware, Node, NodeState, Priority, Replica, ReplicaReport, ReplicaState, Score

NODE = Node(
    node_id=NodeId("n1"),
    name="attic",
    client_id="client-attic",
    address="10.0.0.7:1",
    state=NodeState.SUSPECT,
    hardware=Hardware(os="linux", arch="x86_64"),
    score=Score(score=40, comfortable_parameters=1e9),
)
STARTED = RequestStarted(
    request_id=RequestId("r1"),
    user="ann",
    model=ModelName("tiny"),
    priority=Priority.BATCH,
    node_id=NodeId("n1"),
    node_name="attic",
    attempt=2,
    queued_s=1.5,
)
ENDED = RequestEnded(
    request_id=RequestId("r1"),
    user="ann",
    model=ModelName("tiny"),
    node_id=NodeId("n1"),
    node_name="attic",
    outcome=Outcome.MOVED,
    code="node_lost",
    prompt_tokens=7,
    completion_tokens=3,
    seconds=2.5,
)
READING = NodeReading(
    node_id=NodeId("n1"),
    node_name="attic",
    state=NodeState.ALIVE,
    running=1,
    slots=4,
    slots_busy=2,
    cpu_percent=12.5,
    ram_available_bytes=1 << 33,
    gpu_free_bytes=(1, 2),
    tokens_total=99,
    tokens_per_s=31.5,
    heartbeat_age_s=0.5,
)
TRANSFER = Transfer(
    transfer_id="t",
    kind=TransferKind.COPY,
    state=TransferState.FAILED,
    model=ModelName("tiny"),
    node_id=NodeId("n1"),
    node_name="attic",
    error=NodeLost("gone"),
)
WHATS: tuple[Happening, ...] = (
    NodeTold(node=NODE, news=NodeNews.POLITE, reason="its owner is back"),
    ReplicaTold(
        node_id=NodeId("n1"),
        node_name="attic",
        replica=Replica(report=ReplicaReport(model=ModelName("tiny"), state=ReplicaState.LOADING, progress=0.5)),
    ),
    LoadTold(node_id=NodeId("n1"), node_name="attic", model=ModelName("tiny"), waiting=3, reason="it is free"),
    QueueTold(queue=QueueState(waiting_total=2, running_total=1, limit=9, models=(ModelQueue(model=ModelName("t")),))),
    STARTED,
    ENDED,
    replace(ENDED, outcome=Outcome.FINISHED, decode_tokens_per_s=8.5),
    Readings(nodes=(READING, NodeReading(node_id=NodeId("n2"), node_name="den", state=NodeState.DEAD))),
)


@pytest.mark.parametrize("what", WHATS, ids=lambda what: type(what).__name__)
def test_an_event_comes_out_as_it_went_in(what: Happening) -> None:
    batch = Batch(Position(7, 41), (HubEvent(41, 1_700_000_000.25, what),))
    raw = batch_message(batch).SerializeToString()
    assert of_batch(coordinator_pb2.EventBatch.FromString(raw)) == batch


def test_a_failed_transfer_keeps_its_reason() -> None:
    raw = batch_message(Batch(Position(7, 1), (HubEvent(1, 0.0, TransferTold(transfer=TRANSFER)),)))
    what = of_batch(raw).events[0].what
    assert isinstance(what, TransferTold)
    assert (what.transfer.state, type(what.transfer.error)) == (TransferState.FAILED, NodeLost)


def test_what_was_missed_is_told() -> None:
    batch: Batch[HubEvent] = Batch(Position(7, 41), missed="gone")
    assert of_batch(batch_message(batch)) == batch


def test_an_event_of_tomorrow_keeps_its_number() -> None:
    message = coordinator_pb2.EventBatch(epoch=7, last_id=5, events=[coordinator_pb2.HubEvent(id=5, at_unix_s=1.0)])
    assert of_batch(message).events == (HubEvent(5, 1.0, None),)


def test_a_position_is_read_as_it_is_written() -> None:
    assert read_position(str(Position(7, 1042))) == Position(7, 1042)


@pytest.mark.parametrize("text", ["", "7", "-1", "7-", "a-1", "7-1-2", "٣-1", "7-" + "9" * 50, " 7-1"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        read_position(text)
