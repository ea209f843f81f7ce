"""Transfers of model files, to the values of `transfers.py` and back."""

from __future__ import annotations

from collections.abc import Iterable

from chorus_proto import coordinator_pb2, node_pb2
from chorus_proto.convert import failure_message, of_failure
from chorus_proto.convert_pc import known_or
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.transfers import Chunk, FetchReport, Transfer, TransferKind, TransferState


def transfer_message(transfer: Transfer) -> coordinator_pb2.Transfer:
    return coordinator_pb2.Transfer(
        transfer_id=transfer.transfer_id,
        kind=transfer.kind,
        state=transfer.state,
        model=transfer.model,
        node_id=transfer.node_id,
        node_name=transfer.node_name,
        source=transfer.source,
        done_bytes=transfer.done_bytes,
        total_bytes=transfer.total_bytes or 0,
        bytes_per_s=transfer.bytes_per_s,
        detail=transfer.detail,
        failure=None if transfer.error is None else failure_message(transfer.error),
        digest=transfer.digest,
        on_demand=transfer.on_demand,
    )


def of_transfer(message: coordinator_pb2.Transfer) -> Transfer:
    return Transfer(
        transfer_id=message.transfer_id,
        kind=known_or(TransferKind, message.kind, TransferKind.PULL),
        state=known_or(TransferState, message.state, TransferState.RUNNING),
        model=ModelName(message.model),
        node_id=NodeId(message.node_id),
        node_name=message.node_name,
        source=message.source,
        done_bytes=message.done_bytes,
        total_bytes=message.total_bytes or None,
        bytes_per_s=message.bytes_per_s,
        detail=message.detail,
        error=of_failure(message.failure) if message.HasField("failure") else None,
        digest=message.digest,
        on_demand=message.on_demand,
    )


def transfers_message(transfers: Iterable[Transfer]) -> coordinator_pb2.TransferList:
    return coordinator_pb2.TransferList(transfers=[transfer_message(one) for one in transfers])


def of_transfers(message: coordinator_pb2.TransferList) -> tuple[Transfer, ...]:
    return tuple(of_transfer(one) for one in message.transfers)


def fetch_report_message(report: FetchReport) -> node_pb2.FetchProgress:
    return node_pb2.FetchProgress(
        transfer_id=report.transfer_id,
        state=report.state,
        done_bytes=report.done_bytes,
        total_bytes=report.total_bytes or 0,
        bytes_per_s=report.bytes_per_s,
        detail=report.detail,
        failure=None if report.error is None else failure_message(report.error),
        model=report.model or "",
        digest=report.digest,
    )


def of_fetch_report(message: node_pb2.FetchProgress) -> FetchReport:
    return FetchReport(
        transfer_id=message.transfer_id,
        state=known_or(TransferState, message.state, TransferState.RUNNING),
        done_bytes=message.done_bytes,
        total_bytes=message.total_bytes or None,
        bytes_per_s=message.bytes_per_s,
        detail=message.detail,
        error=of_failure(message.failure) if message.HasField("failure") else None,
        model=ModelName(message.model) if message.model else None,
        digest=message.digest,
    )


def chunk_frame(chunk: Chunk) -> node_pb2.TransferFrame:
    return node_pb2.TransferFrame(
        chunk=node_pb2.TransferChunk(offset=chunk.offset, content=chunk.content, piece_sha256=chunk.piece_sha256)
    )


def of_chunk(message: node_pb2.TransferChunk) -> Chunk:
    return Chunk(offset=message.offset, content=message.content, piece_sha256=message.piece_sha256)
