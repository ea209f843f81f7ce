"""What `bench.gateway` measures of a whole cluster: answers while half of it is frozen, and one large embedding."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec

from bench.gateways import engine, pinned
from bench.kept_alive import Connection, request
from bench.load import percentile
from bench.mock_engine import MODEL
from bench.processes import cluster_of

METADATA = ("/v1/models", "/api/tags", "/api/ps", "/v1/status", "/status", "/health", "/metrics", "/queue/status")
FROZEN_S = 40.0
"""Long enough that leases run out and nodes are called lost meanwhile: that moment counts too."""
TEXTS_PER_S = (600.0, 300.0, 150.0)
"""Of the three engines: what the emulators can do beside everything else on two cores, with room to spare."""
PART_TEXTS = 16


async def frozen_half(folder: Path, *, quick: bool) -> None:
    """The slowest of each endpoint's answers, from before two of four agents stop until after they are lost."""
    agents = {f"pc{number}": ("--engines=scripted",) for number in range(4)}
    with cluster_of(folder, agents, "--slots=4", prefix=pinned()) as up:
        connection = Connection(up.http_url)
        took_ms: dict[str, list[float]] = {path: [] for path in METADATA}
        frozen = up.agents[:2]
        try:
            for agent in frozen:
                agent.suspend()
            ends_at_s = time.perf_counter() + (5.0 if quick else FROZEN_S)
            while time.perf_counter() < ends_at_s:
                for path in METADATA:
                    began_s = time.perf_counter()
                    await connection.ask(request(up.http_url, path), keeps_body=False)
                    took_ms[path].append((time.perf_counter() - began_s) * 1000)
                await asyncio.sleep(0.02)
        finally:
            for agent in frozen:
                agent.resume()
            connection.close()
    print("\nMetadata with 2 of 4 agents frozen; target p99 < 100 ms")
    for path, each in took_ms.items():
        print(f"  {path:<28} p50 {percentile(each, 0.5):6.1f} ms   p99 {percentile(each, 0.99):6.1f} ms", flush=True)


async def embedding_fan_out(folder: Path, *, quick: bool) -> None:
    """One request of 10,000 texts over three engines of fixed speeds, against the sum of what each does alone."""
    texts = [f"chunk {number} of a long document" for number in range(2_000 if quick else 10_000)]
    with ExitStack() as running:
        urls = [running.enter_context(engine(f"--texts-per-s={speed}")) for speed in TEXTS_PER_S]
        alone = [await _alone_per_s(url, round(speed)) for url, speed in zip(urls, TEXTS_PER_S, strict=True)]
        agents = {f"pc{number}": ("--engines=remote", f"--remote-url={url}") for number, url in enumerate(urls)}
        hub = running.enter_context(cluster_of(folder, agents, "--slots=4", prefix=pinned()))
        asked = request(hub.http_url, "/v1/embeddings", {"model": MODEL, "input": texts})
        connection = Connection(hub.http_url)
        shares: list[float] = []
        for _ in range(1 if quick else 3):
            began_s = time.perf_counter()
            answer = await connection.ask(asked)
            seconds = time.perf_counter() - began_s
            found = msgspec.json.decode(answer.body)["data"]
            if [row["index"] for row in found] != list(range(len(texts))):
                raise SystemExit("vectors are missing or out of order")
            shares.append(len(texts) / seconds / sum(alone))
        connection.close()
    print(f"\nEmbedding {len(texts)} texts over 3 nodes (alone {', '.join(f'{one:.0f}' for one in alone)} texts/s)")
    print(f"  share of the sum of their speeds: {', '.join(f'{one:.3f}' for one in shares)}   target >= 0.9")


async def _alone_per_s(url: str, count: int) -> float:
    """Texts a second of one engine asked directly, with two requests at a time so that it is never idle."""
    asked = request(url, "/v1/embeddings", {"model": MODEL, "input": ["text"] * PART_TEXTS})
    turns = iter(range(count // PART_TEXTS))

    async def worker() -> int:
        connection = Connection(url)
        done = 0
        for _ in turns:
            await connection.ask(asked, keeps_body=False)
            done += PART_TEXTS
        connection.close()
        return done

    began_s = time.perf_counter()
    done = sum(await asyncio.gather(worker(), worker()))
    return done / (time.perf_counter() - began_s)
