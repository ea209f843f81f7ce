from __future__ import annotations

from chorus_proto import coordinator_pb2, node_pb2
from chorus_proto.convert_transfers import (
    chunk_frame,
    fetch_report_message,
    of_chunk,
    of_fetch_report,
    of_transfer,
    of_transfers,
    transfer_message,
    transfers_message,
)
from chorus_proto.errors import ErrorCode, TransferFailed
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.transfers import Chunk, FetchReport, Transfer, TransferKind, TransferState, bare_digest

FULL = Transfer(
    transfer_id="t",
    kind=TransferKind.COPY,
    state=TransferState.FAILED,
    model=ModelName("m"),
    node_id=NodeId("1"),
    node_name="cellar",
    source="attic",
    done_bytes=5,
    total_bytes=10,
    bytes_per_s=2.5,
    detail="words",
    error=TransferFailed("why"),
    digest="ab" * 32,
    on_demand=True,
)


def test_a_transfer_survives_the_wire() -> None:
    (found,) = of_transfers(transfers_message([FULL]))
    assert found.error is not None
    assert (found.error.code, found.error.message) == (ErrorCode.TRANSFER_FAILED, "why")
    for name in Transfer.__dataclass_fields__:
        if name != "error":
            assert getattr(found, name) == getattr(FULL, name)


def test_what_is_unknown_stays_unknown() -> None:
    plain = Transfer(
        transfer_id="t",
        kind=TransferKind.PULL,
        state=TransferState.WAITING,
        model=ModelName("m"),
        node_id=NodeId("1"),
        node_name="n",
    )
    assert of_transfer(transfer_message(plain)) == plain
    assert (plain.share, plain.left_s) == (None, None)


def test_a_state_of_a_newer_version_is_one_that_still_runs() -> None:
    found = of_transfer(coordinator_pb2.Transfer(transfer_id="t", kind="beam", state="melting"))
    assert (found.kind, found.state) == (TransferKind.PULL, TransferState.RUNNING)
    assert of_fetch_report(node_pb2.FetchProgress(state="melting")).state is TransferState.RUNNING


def test_a_report_and_a_chunk_survive_the_wire() -> None:
    report = FetchReport(
        transfer_id="t",
        state=TransferState.RUNNING,
        done_bytes=3,
        total_bytes=9,
        bytes_per_s=1.5,
        detail="d",
        model=ModelName("m"),
        digest="cd" * 32,
    )
    assert of_fetch_report(fetch_report_message(report)) == report
    assert of_fetch_report(fetch_report_message(FetchReport(transfer_id="t", state=TransferState.DONE))).model is None
    chunk = Chunk(offset=1 << 40, content=b"abc", piece_sha256=b"x" * 32)
    assert of_chunk(chunk_frame(chunk).chunk) == chunk
    assert chunk.end == (1 << 40) + 3


def test_share_and_time_left_follow_from_bytes_and_speed() -> None:
    assert (FULL.share, FULL.left_s) == (0.5, 2.0)


def test_a_digest_is_bare_hex_whatever_was_before_it() -> None:
    assert bare_digest(" SHA256:" + "AB" * 32) == "ab" * 32
    assert [bare_digest(text) for text in ("", "sha256-" + "a" * 64, "a" * 63, "z" * 64)] == ["", "", "", ""]
