"""The promises of proto/README.md: a process of this version reads what a newer one may send."""

from __future__ import annotations

import msgspec
import pytest

from chorus_proto import PROTOCOL_MAX, PROTOCOL_MIN, common_pb2, coordinator_pb2, node_pb2
from chorus_proto.convert import hello_message, of_dialect, of_hello
from chorus_proto.errors import ErrorCode, InternalError, error_of
from chorus_proto.generation import Generation, Message
from chorus_proto.ids import InstanceId, NodeId
from chorus_proto.values import EngineKind, Hardware, Hello

HELLO = Hello(
    node_id=NodeId("n"),
    instance_id=InstanceId("i"),
    name="attic",
    version="9.9",
    protocol_min=PROTOCOL_MIN,
    protocol_max=PROTOCOL_MAX + 3,
    hardware=Hardware(os="linux", arch="x86_64"),
    engines=(EngineKind.LLAMA_SERVER,),
    features=("a-feature-of-tomorrow",),
)


def unknown_field(number: int, payload: bytes = b"from tomorrow") -> bytes:
    """A length-delimited field in protobuf's wire format (one-byte length)."""
    key = number << 3 | 2
    varint = b""
    while key > 0x7F:
        varint += bytes([key & 0x7F | 0x80])
        key >>= 7
    return varint + bytes([key, len(payload)]) + payload


def test_a_hello_with_fields_of_tomorrow_is_the_same_hello() -> None:
    raw = hello_message(HELLO).SerializeToString() + unknown_field(500)
    assert of_hello(node_pb2.Hello.FromString(raw)) == HELLO


def test_an_engine_of_tomorrow_does_not_hide_the_ones_that_are_known() -> None:
    message = hello_message(HELLO)
    message.engines.append("an_engine_of_tomorrow")
    assert of_hello(message).engines == (EngineKind.LLAMA_SERVER,)


@pytest.mark.parametrize(
    "kind", [node_pb2.AgentFrame, node_pb2.CoordinatorFrame, coordinator_pb2.CallerFrame, coordinator_pb2.ReplyFrame]
)
def test_a_frame_of_tomorrow_reads_as_no_kind_at_all(
    kind: type[node_pb2.AgentFrame | node_pb2.CoordinatorFrame | coordinator_pb2.CallerFrame],
) -> None:
    assert kind.FromString(unknown_field(400)).WhichOneof("kind") is None


def test_a_dialect_of_tomorrow_is_known_to_be_unknown() -> None:
    raw = node_pb2.Execute(execution_id=1).SerializeToString() + bytes([0x28, 99])  # dialect = 99
    assert of_dialect(node_pb2.Execute.FromString(raw).dialect) is None


def test_an_error_code_of_tomorrow_keeps_its_message() -> None:
    error = error_of("quota_of_tomorrow", "no more today")
    assert isinstance(error, InternalError)
    assert "no more today" in error.message
    assert "quota_of_tomorrow" in error.message


def test_every_error_code_of_today_survives_the_wire_by_name() -> None:
    assert {error_of(code.value, "x").code for code in ErrorCode if code is not ErrorCode.INTERNAL} == {
        code for code in ErrorCode if code is not ErrorCode.INTERNAL
    }


def test_a_generation_with_fields_of_tomorrow_is_read_without_them() -> None:
    today = Generation(messages=(Message("user", "hi"),), max_tokens=3)
    fields = msgspec.json.decode(today.encoded(), type=dict[str, object])
    fields["thinking_of_tomorrow"] = {"budget": 7}
    fields["messages"] = [{"role": "user", "content": "hi", "mood": "curious"}]
    assert Generation.decoded(msgspec.json.encode(fields)) == today


def test_a_generation_of_yesterday_has_the_defaults_of_today() -> None:
    assert Generation.decoded(b'{"prompt":"x"}') == Generation(prompt="x")


def test_no_field_number_is_used_twice_and_reserved_ones_stay_free() -> None:
    for file in (common_pb2, node_pb2, coordinator_pb2):
        for message in file.DESCRIPTOR.message_types_by_name.values():
            numbers = [field.number for field in message.fields]
            assert len(numbers) == len(set(numbers)), message.name
