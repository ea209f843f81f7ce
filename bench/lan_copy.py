"""A model from node to node against `cp` + SHA-256 of the same file: `python -m bench.lan_copy [--mib N] [--turns N]`.

The hub runs in this process and each node in one of its own, over real gRPC on loopback; turn by turn, so that all see
the same machine. Then senders corrupt, lie, stall or die at random bytes, and every byte that was accepted is compared.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median

from chorus_proto.transfers import PIECE_BYTES, Transfer, TransferState
from chorus_proto.values import NodeState
from tests.support.file_node import FileNode, Sabotage, file_node
from tests.support.model_files import model_bytes, sha256_of
from tests.support.small_cluster import SmallCluster, small_cluster

MODEL = "m"
AIM = 0.5
WITHIN_S = 300.0


@asynccontextmanager
async def node_process(cluster: SmallCluster, name: str, folder: Path) -> AsyncGenerator[None]:
    """A node in a process of its own, joined; what lies in `folder/name/own` is its models."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.lan_copy", "--node", name, cluster.hub.grpc_address, str(folder)),
        stdin=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(WITHIN_S):
            while (node := await cluster.node(name)) is None or any(not file.digest for file in node.models):
                if process.returncode is not None:
                    raise SystemExit(f"node {name} ended with {process.returncode}")
                await asyncio.sleep(0.02)
        yield
    finally:
        process.terminate()
        await process.wait()


async def be_node(name: str, address: str, folder: Path) -> None:
    """The code of a node's process; it ends with its parent."""
    async with file_node(address, name, folder):
        await asyncio.to_thread(sys.stdin.read)


async def copied(cluster: SmallCluster, to: str) -> Transfer:
    """One copy, until it is over."""
    begun = await cluster.coordinator.copy_model(MODEL, to=to)
    async with asyncio.timeout(WITHIN_S):
        while True:
            found = next(one for one in await cluster.coordinator.transfers() if one.transfer_id == begun.transfer_id)
            if found.state.is_over:
                return found
            await asyncio.sleep(0.005)


def copied_here(source: Path, target: Path) -> float:
    """Seconds of `cp` and then `sha256sum`, as somebody would who carries a file to another disk and checks it."""
    began_s = time.perf_counter()
    if shutil.which("cp") and shutil.which("sha256sum"):
        subprocess.run(["cp", source, target], check=True)
        subprocess.run(["sha256sum", target], check=True, stdout=subprocess.DEVNULL)
    else:
        shutil.copyfile(source, target)
        with target.open("rb") as file:
            hashlib.file_digest(file, "sha256")
    took_s = time.perf_counter() - began_s
    target.unlink()
    return took_s


async def speed(folder: Path, *, mib: int, turns: int) -> None:
    """Both ways of copying, turn by turn."""
    source = folder / "attic" / "own" / f"{MODEL}.gguf"
    source.parent.mkdir(parents=True)
    head = model_bytes(4 * PIECE_BYTES)
    with source.open("wb") as file:
        file.write(head)
        block = random.Random(1).randbytes(1 << 20)
        for _ in range(max(0, mib - len(head) // 2**20)):  # behind the last tensor, where no reader looks
            file.write(block)
    size = source.stat().st_size
    ours: list[float] = []
    theirs: list[float] = []
    async with (
        small_cluster(folder / "hub", heartbeat_s=1.0, suspect_after_s=30.0, dead_after_s=60.0) as cluster,
        node_process(cluster, "attic", folder),
    ):
        print(f"{size / 2**20:.0f} MiB        copy MiB/s   cp+sha256 MiB/s   ratio")
        for turn in range(turns):
            theirs.append(await asyncio.to_thread(copied_here, source, folder / "plain"))
            name = f"taker{turn}"
            async with node_process(cluster, name, folder):
                began_s = time.perf_counter()
                done = await copied(cluster, name)
                ours.append(time.perf_counter() - began_s)
            if done.state is not TransferState.DONE:
                raise SystemExit(f"the copy failed: {done.error}")
            shutil.rmtree(folder / name)
            print(_line(f"turn {turn + 1}", size, ours[-1], theirs[-1]))
    print(_line("median", size, median(ours), median(theirs)) + f"   (aim {AIM})")


def _line(what: str, size: int, ours_s: float, theirs_s: float) -> str:
    return f"{what:10} {size / 2**20 / ours_s:14.0f} {size / 2**20 / theirs_s:17.0f} {theirs_s / ours_s:7.2f}"


async def faults(folder: Path, *, runs: int) -> None:
    """Of two senders the first is bad in one way or another; the third node must get every byte right."""
    content = model_bytes(6 * PIECE_BYTES + 12_345)
    chance = random.Random(4)
    arrived = bad_bytes = 0
    for run in range(runs):
        kind = ("corrupt", "lie", "stall", "die")[run % 4]
        where = folder / str(run)
        async with (
            small_cluster(where / "hub", copy_stall_s=0.5, copy_wait_s=5.0) as cluster,
            AsyncExitStack() as stack,
        ):
            nodes: list[FileNode] = []
            for name, models in (("attic", {MODEL: content}), ("barn", {MODEL: content}), ("cellar", {})):
                node = file_node(cluster.hub.grpc_address, name, where, models=models)
                nodes.append(await stack.enter_async_context(node))
                await cluster.until_state(name, NodeState.ALIVE)
            bad = min(nodes[:2], key=lambda node: node.node_id)
            bad.calls.sabotage = Sabotage(at=chance.randrange(len(content)))
            setattr(bad.calls.sabotage, kind, True)
            done = await copied(cluster, "cellar")
            arrived += done.state is TransferState.DONE
            for path in nodes[2].models():
                got = path.read_bytes()
                bad_bytes += sum(one != other for one, other in zip(got, content, strict=False))
                bad_bytes += abs(len(got) - len(content))
                assert (sha256_of(got) == sha256_of(content)) == (got == content)
        shutil.rmtree(where)
    print(
        f"bad senders: {runs} copies, {arrived} arrived from the other node, {bad_bytes} wrong bytes accepted (aim 0)"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--mib", type=int, default=1024, help="size of the file")
    options.add_argument("--turns", type=int, default=3)
    options.add_argument("--faults", type=int, default=20, metavar="RUNS", help="copies with a bad sender")
    options.add_argument("--node", nargs=3, metavar=("NAME", "ADDRESS", "FOLDER"), help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.node:
        name, address, folder = given.node
        asyncio.run(be_node(name, address, Path(folder)))
        return
    logging.disable(logging.ERROR)  # it is full of bad senders
    with tempfile.TemporaryDirectory() as folder:
        if given.turns:
            asyncio.run(speed(Path(folder), mib=given.mib, turns=given.turns))
        if given.faults:
            asyncio.run(faults(Path(folder), runs=given.faults))


if __name__ == "__main__":
    main()
