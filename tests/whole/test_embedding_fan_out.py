"""One large request for embeddings over three unequal nodes: real wrapper, coordinator, links and agents."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import openai
import pytest

from tests.support.http_face import http_face
from tests.support.small_cluster import small_cluster

SPEEDS = {"attic": 400.0, "cellar": 200.0, "garage": 100.0}
"""Texts a second."""
TEXTS = 3000
SHARE = 0.6
"""Of the sum of the speeds, on a test machine that does other things too; bench/ asks for more."""


@pytest.mark.timeout(60)
def test_three_thousand_texts_take_hardly_longer_than_the_nodes_together_need(tmp_path: Path) -> None:
    async def run() -> None:
        async with small_cluster(tmp_path) as cluster:
            for name, speed in SPEEDS.items():
                agent = await cluster.join(name, models=("minilm",))
                await cluster.until_ready(name)
                agent.loaded.texts_per_s = speed
            texts = ["x" * (1 + place % 97) for place in range(TEXTS)]
            async with (
                http_face(cluster.coordinator) as server,
                openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=50) as client,
            ):
                began_s = time.monotonic()
                found = await client.embeddings.create(model="minilm", input=texts, encoding_format="float")
                took_s = time.monotonic() - began_s
            assert [row.embedding for row in found.data] == [[float(len(text))] for text in texts]
            assert TEXTS / took_s > SHARE * sum(SPEEDS.values())

    asyncio.run(run())
