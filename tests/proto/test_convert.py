"""Values survive the wire, and messages of another version do not hurt."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chorus_proto import common_pb2, coordinator_pb2, node_pb2
from chorus_proto.cluster import Ask, AskDelta, AskFinished, Call, CallFinished, CallOutput, CallStarted, MemberAnswer
from chorus_proto.convert import (
    courtesy_message,
    failure_message,
    heartbeat_message,
    hello_message,
    of_courtesy,
    of_dialect,
    of_failure,
    of_heartbeat,
    of_hello,
    of_replica,
    of_welcome,
    replica_message,
    welcome_message,
)
from chorus_proto.convert_calls import (
    ask_finished_message,
    ask_message,
    finished_message,
    member_answer_message,
    of_ask,
    of_ask_frame,
    of_call_frame,
    of_submit,
    reply_frame,
    started_message,
    submit_message,
)
from chorus_proto.convert_pc import model_file_messages
from chorus_proto.convert_state import (
    of_reassignment,
    of_state,
    of_woken,
    reassignment_message,
    state_message,
    woken_message,
)
from chorus_proto.errors import ERROR_OF_CODE, ErrorCode, InternalError, QueueFull
from chorus_proto.ids import InstanceId, ModelName, NodeId, RequestId
from chorus_proto.values import (
    ALL_OURS,
    AggregateStrategy,
    Assignment,
    ClusterState,
    CouncilSummary,
    Courtesy,
    Dialect,
    EngineKind,
    Footprint,
    Gpu,
    Hardware,
    Heartbeat,
    Hello,
    ModelFile,
    ModelShape,
    ModelSummary,
    Node,
    NodeState,
    Reassignment,
    Replica,
    ReplicaReport,
    ReplicaState,
    RoutingStrategy,
    Score,
    ThinkingStyle,
    Tier,
    Timings,
    Usage,
    Welcome,
    Woken,
)

NODE = NodeId("4b8f9c1e-0000-4000-8000-000000000000")
SHAPE = ModelShape(
    architecture="llama",
    layers=32,
    embedding_length=4096,
    heads=32,
    kv_heads=8,
    key_length=128,
    value_length=128,
    vocabulary=128256,
    trained_context_tokens=131072,
    parameters=8_030_000_000,
    active_parameters=None,
    sliding_window_tokens=512,
    sliding_layers=0,
)
FILE = ModelFile(
    name=ModelName("llama3.1:8b"),
    digest="sha256:ab",
    file_bytes=4_900_000_000,
    engine=EngineKind.OLLAMA,
    shape=SHAPE,
    owners=True,
    thinking=ThinkingStyle.OPENED_TAGS,
    thinking_optional=True,
    tools=True,
    fetched=True,
    copy_digest="cd" * 32,
    copy_bytes=5_000_000_000,
)
HARDWARE = Hardware(
    os="linux",
    arch="x86_64",
    cpu_model="EPYC",
    physical_cores=2,
    ram_bytes=24_000_000_000,
    ram_available_bytes=0,
    gpus=(
        Gpu(name="RTX 3060", vendor="nvidia", memory_bytes=12_000_000_000, memory_free_bytes=0),
        Gpu(name="?", usable=False),
    ),
    memory_bandwidth_bytes_per_s=1.5e10,
    fingerprint="f",
)
REPORT = ReplicaReport(
    model=FILE.name,
    state=ReplicaState.READY,
    slots=4,
    engine=EngineKind.LLAMA_SERVER,
    resident_bytes=5,
    progress=0.0,
    context_tokens=4096,
    load_s=1.5,
    kept=True,
    keep_alive_s=300.0,
    evicted_for=ModelName("other"),
    expected_bytes=6,
    arithmetic="needs 5.0 = 3.0 + 2.0",
    restarts=2,
    degraded=True,
    decode_tokens_per_s=0.5,
)


def test_an_introduction_survives_the_wire_with_unknown_staying_unknown() -> None:
    hello = Hello(
        node_id=NODE,
        instance_id=InstanceId("i"),
        name="attic",
        version="1",
        protocol_min=1,
        protocol_max=2,
        hardware=HARDWARE,
        engines=(EngineKind.OLLAMA,),
        models=(FILE,),
        replicas=(REPORT,),
        features=("x",),
        mac_addresses=("1c:69:7a:00:00:01", "1c:69:7a:00:00:02"),
        courtesy=Courtesy(paused=True, reason="on battery"),
    )
    raw = hello_message(hello).SerializeToString()
    assert of_hello(node_pb2.Hello.FromString(raw)) == hello


def test_a_model_that_no_message_can_hold_is_left_out_by_name_and_the_others_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    too_long = replace(FILE, name=ModelName("odd-number"), shape=replace(SHAPE, trained_context_tokens=1 << 32))
    no_text = replace(FILE, name=ModelName("odd-name-\udce8"))
    told = model_file_messages([too_long, FILE, no_text])
    assert [message.name for message in told] == [FILE.name]
    assert "odd-number" in caplog.text
    assert "odd-name" in caplog.text


def test_a_failure_that_names_a_file_whose_name_is_not_utf8_is_told_all_the_same() -> None:
    reason = "The model file mod\udce8le.gguf cannot be read"
    told = "The model file mod\\udce8le.gguf cannot be read"
    assert of_replica(replica_message(replace(REPORT, detail=reason))).detail == told
    assert of_failure(failure_message(InternalError(reason))).message == told


def test_what_a_pc_leaves_to_its_owner_survives_the_wire_and_an_older_agent_leaves_all_to_us() -> None:
    for courtesy in (ALL_OURS, Courtesy(slots=0), Courtesy(slots=3, reason="other programs"), Courtesy(paused=True)):
        raw = courtesy_message(courtesy).SerializeToString()
        assert of_courtesy(node_pb2.Courtesy.FromString(raw)) == courtesy
    assert of_hello(node_pb2.Hello()).courtesy == ALL_OURS
    goodbye = node_pb2.AgentGoodbye.FromString(node_pb2.AgentGoodbye(reason="left").SerializeToString())
    assert not goodbye.sleeps


def test_a_node_that_was_woken_survives_the_wire() -> None:
    woken = Woken(node_id=NODE, node_name="attic", mac_addresses=("1c:69:7a:00:00:01",))
    assert of_woken(coordinator_pb2.WakeReply.FromString(woken_message(woken).SerializeToString())) == woken


def test_heartbeat_welcome_and_replica_survive_the_wire() -> None:
    beat = Heartbeat(sequence=3, uptime_s=1.5, ram_available_bytes=0, gpu_free_bytes=(1, 2), cpu_percent=None)
    assert of_heartbeat(heartbeat_message(beat)) == beat
    welcome = Welcome(
        protocol=1, epoch=7, lease_s=10, heartbeat_s=1, version="1", features=("a",), assigned_model=FILE.name
    )
    assert of_welcome(welcome_message(welcome)) == welcome
    assert of_replica(replica_message(REPORT)) == REPORT


def test_every_error_survives_the_wire_with_its_type_param_and_delay() -> None:
    for code, kind in ERROR_OF_CODE.items():
        back = of_failure(failure_message(kind("why", param="model", retry_after_s=2.5)))
        assert type(back) is kind
        assert (back.code, back.message, back.param, back.retry_after_s) == (code, "why", "model", 2.5)
    assert of_failure(failure_message(QueueFull("full"))).retry_after_s is None


def test_an_error_code_of_a_newer_version_becomes_an_internal_error() -> None:
    error = of_failure(common_pb2.Failure(code="flux_capacitor_empty", message="no 1.21 GW"))
    assert isinstance(error, InternalError)
    assert "flux_capacitor_empty" in error.message
    assert error.code is ErrorCode.INTERNAL


def test_what_a_newer_peer_adds_is_left_out_not_fatal() -> None:
    message = node_pb2.Hello(node_id="n", engines=["warp", "ollama"])
    message.models.add(name="m", engine="warp")
    hello = of_hello(message)
    assert hello.engines == (EngineKind.OLLAMA,)
    assert hello.models == ()
    number = 99
    assert of_dialect(common_pb2.Dialect.ValueType(number)) is None
    future = node_pb2.ReplicaReport(model="m")
    future.MergeFromString(bytes([0x10, 99]))
    assert of_replica(future).state is ReplicaState.FAILED


def test_an_older_agent_reads_a_frame_with_fields_it_does_not_know() -> None:
    # Field 2000, length-delimited, as a newer coordinator may add it to any frame.
    unknown = bytes([0x82, 0x7D, 3]) + b"new"
    raw = node_pb2.CoordinatorFrame(cancel=node_pb2.Cancel(execution_id=5)).SerializeToString() + unknown
    frame = node_pb2.CoordinatorFrame.FromString(raw)
    assert frame.WhichOneof("kind") == "cancel"
    assert node_pb2.CoordinatorFrame.FromString(unknown).WhichOneof("kind") is None


def test_calls_and_asks_survive_the_wire() -> None:
    call = Call(
        request_id=RequestId("r"),
        model=FILE.name,
        dialect=Dialect.OPENAI_CHAT,
        stream=True,
        generation=b"{}",
        prompt_tokens_estimate=5,
        within_s=30,
        queue_within_s=0,
        affinity="me",
        node="attic",
        strategy=RoutingStrategy.STICKY,
        max_tokens=0,
    )
    assert of_submit(coordinator_pb2.Submit.FromString(submit_message(call, 9).SerializeToString())) == call
    ask = Ask(
        request_id=RequestId("r"),
        generation=b"{}",
        prompt_tokens_estimate=1,
        within_s=2.5,
        strategy=AggregateStrategy.VOTE,
        nodes=("a", "b"),
        quorum=2,
        council=ModelName("council/all"),
        queue_within_s=0,
    )
    assert of_ask(ask_message(ask, 9)) == ask


def test_answers_survive_the_wire() -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=2, cached_tokens=3)
    timings = Timings(ttft_s=0.5, duration_s=1, decode_tokens_per_s=3)
    finished = CallFinished(finish_reason="stop", usage=usage, timings=timings, payload=b"end")
    started = CallStarted(
        node_id=NODE,
        node_name="attic",
        model=FILE.name,
        attempt=2,
        queued_s=0.5,
        strategy=RoutingStrategy.RANDOM,
    )
    assert of_call_frame(coordinator_pb2.ReplyFrame(finished=finished_message(finished))) == finished
    assert of_call_frame(coordinator_pb2.ReplyFrame(started=started_message(started))) == started
    assert of_call_frame(reply_frame(1, b"x", 2)) == CallOutput(b"x", 2)
    assert of_call_frame(coordinator_pb2.ReplyFrame(call_id=1)) is None
    member = MemberAnswer(node_id=NODE, node_name="attic", model=FILE.name, text="hi", usage=usage, member=3)
    other = replace(member, member=4)
    assert of_ask_frame(coordinator_pb2.ReplyFrame(member_answer=member_answer_message(member)), []) == member
    asked = AskFinished(
        strategy=AggregateStrategy.FIRST,
        text="hi",
        members=(replace(member, weight=0.0, agrees=False), other),
        seconds=1.0,
        agreement=1.0,
        disagreement=0.25,
        usage=usage,
        spared=2,
        note="the votes decided",
    )
    sent = coordinator_pb2.ReplyFrame(ask_finished=ask_finished_message(asked))
    assert of_ask_frame(sent, [member, other]) == asked
    delta = coordinator_pb2.ReplyFrame(ask_delta=coordinator_pb2.AskDelta(text=b"hi"))
    assert of_ask_frame(delta, []) == AskDelta(b"hi")


def test_the_state_of_the_cluster_survives_the_wire() -> None:
    node = Node(
        node_id=NODE,
        name="attic",
        client_id="client-attic-4b8f9c",
        address="10.0.0.1:5",
        state=NodeState.SUSPECT,
        hardware=HARDWARE,
        score=Score(score=81.5, comfortable_parameters=8.5e9, decode_tokens_per_s=11.0, limited_by="memory"),
        engines=(EngineKind.OLLAMA,),
        models=(FILE,),
        replicas=(Replica(report=REPORT, slots_busy=1, decode_tokens_per_s=9.0),),
        assigned_model=FILE.name,
        assignment_reason="it fits",
        heartbeat_age_s=0.5,
        cpu_percent=0.0,
        courtesy=Courtesy(slots=1, reason="other programs use 80 % of the CPU"),
        mac_addresses=("1c:69:7a:00:00:01",),
        footprints=(
            Footprint(model=FILE.name, engine=EngineKind.OLLAMA, predicted_bytes=0, load_s=1.5, arithmetic="7 + 2"),
            Footprint(model=ModelName("other"), engine=EngineKind.OLLAMA, slots=4, expected_bytes=1, resident_bytes=2),
        ),
    )
    state = ClusterState(
        version="1",
        epoch=2,
        uptime_s=3,
        nodes=(node,),
        models=(ModelSummary(name=FILE.name, tier=Tier.LARGE, ready_on=(NODE,), on_disk_at=(NODE,)),),
        waiting=1,
        draining=True,
        councils=(CouncilSummary(name=ModelName("council/all"), strategy=AggregateStrategy.JUDGE, members="all"),),
    )
    assert of_state(coordinator_pb2.ClusterState.FromString(state_message(state).SerializeToString())) == state
    reassignment = Reassignment(
        assignments=(Assignment(node_id=NODE, node_name="attic", model=None, previous_model=FILE.name, reason="why"),)
    )
    assert of_reassignment(reassignment_message(reassignment)) == reassignment
