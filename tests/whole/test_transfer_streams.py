"""NodeService.Transfer over real gRPC, with agents that do not keep to the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from grpc import aio

from chorus_proto import node_pb2, node_pb2_grpc
from chorus_proto.channel import ERROR_CODE_KEY
from chorus_proto.transfers import CHUNK_BYTES, Chunk, TransferState
from tests.support.file_node import file_node
from tests.support.model_files import model_bytes
from tests.support.small_cluster import SmallCluster, small_cluster

Call = aio.StreamStreamCall[node_pb2.TransferFrame, node_pb2.TransferFrame]


def opened(ticket: str, offset: int = 0) -> node_pb2.TransferFrame:
    return node_pb2.TransferFrame(open=node_pb2.TransferOpen(ticket=ticket, offset=offset))


def play(tmp_path: Path, scenario: Callable[[SmallCluster, Callable[[], Call]], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        async with (
            asyncio.timeout(30),
            small_cluster(tmp_path / "hub", hello_within_s=0.5, copy_stall_s=0.5, copy_wait_s=1.5) as cluster,
            aio.insecure_channel(cluster.hub.grpc_address) as channel,
        ):
            await scenario(cluster, lambda: node_pb2_grpc.NodeServiceStub(channel).Transfer())

    asyncio.run(all_of_it())


async def refused(call: Call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(aio.AioRpcError) as error:
        await call.read()
    metadata = dict(error.value.trailing_metadata() or ())
    return error.value.code(), str(metadata.get(ERROR_CODE_KEY))


def test_a_stream_without_a_good_ticket_is_refused(tmp_path: Path) -> None:
    async def scenario(_cluster: SmallCluster, call: Callable[[], Call]) -> None:
        for first, code in (
            (opened("nonsense"), "not_found"),
            (opened(""), "not_found"),
            (node_pb2.TransferFrame(chunk=node_pb2.TransferChunk(content=b"x")), "invalid_request"),
            (node_pb2.TransferFrame(), "invalid_request"),
        ):
            bad = call()
            await bad.write(first)
            assert (await refused(bad))[1] == code
        assert (await refused(call())) == (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_exceeded")

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    "frame",
    [
        node_pb2.TransferFrame(chunk=node_pb2.TransferChunk(offset=0, content=bytes(CHUNK_BYTES + 1))),
        node_pb2.TransferFrame(chunk=node_pb2.TransferChunk(offset=0, content=b"")),
        node_pb2.TransferFrame(chunk=node_pb2.TransferChunk(offset=1 << 62, content=b"x")),
        node_pb2.TransferFrame(chunk=node_pb2.TransferChunk(offset=0, content=b"x" * 99, piece_sha256=b"../../x")),
    ],
    ids=["too large", "empty", "far behind the end", "wrong digest"],
)
def test_a_sender_of_rubbish_gives_the_receiver_nothing_and_ends_the_copy(
    tmp_path: Path, frame: node_pb2.TransferFrame
) -> None:
    async def scenario(cluster: SmallCluster, call: Callable[[], Call]) -> None:
        content = model_bytes(100_000)
        address = cluster.hub.grpc_address
        async with (
            file_node(address, "attic", tmp_path, models={"m": content}) as attic,
            file_node(address, "cellar", tmp_path) as cellar,
        ):

            async def send(ticket: str, chunks: AsyncIterator[Chunk]) -> None:
                assert chunks is not None, "the good ones, which nobody gets"
                bad = call()
                await bad.write(opened(ticket))
                await bad.write(frame)
                while await bad.read() is not aio.EOF:
                    pass

            attic.calls.send = send
            while len((await cluster.coordinator.state()).nodes) < 2:
                await asyncio.sleep(0.01)
            await cluster.coordinator.copy_model("m", to="cellar")
            while not (transfer := (await cluster.coordinator.transfers())[0]).state.is_over:
                await asyncio.sleep(0.01)
            assert transfer.state is TransferState.FAILED
            assert "attic" in str(transfer.error)
            assert cellar.models() == []
            assert sum(path.stat().st_size for path in cellar.parts()) == 0

    play(tmp_path, scenario)
