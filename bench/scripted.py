"""How fast the scripted engine writes and the agent's adapter reads: `python -m bench.scripted`, run from the root.

It is the ceiling of what `bench.overhead` can measure: a slower one would hide what Chorus itself costs.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from statistics import median

from chorus_client.engines.base import LoadOptions
from chorus_client.engines.scripted import ScriptedEngine
from chorus_proto.generation import Delta, Generation, Message

TOKENS = 20_000
REPEATS = 5


async def main() -> None:
    engine = ScriptedEngine(context_tokens=100_000)
    (file,) = await engine.inventory()
    model = await engine.load(file, LoadOptions(slots=1), lambda _progress: None)
    try:
        rates: list[float] = []
        for turn in range(REPEATS):
            asked = Generation(
                messages=(Message(role="user", content=f"fast {turn}"),), max_tokens=TOKENS, ignore_end=True
            )
            began_s = time.perf_counter()
            tokens = 0
            async with aclosing(model.generate(asked)) as batches:
                async for pieces in batches:
                    tokens += sum(isinstance(piece, Delta) for piece in pieces)
            rates.append(tokens / (time.perf_counter() - began_s))
        print(f"scripted engine, one stream at full speed: {median(rates):.0f} tokens/s (least {min(rates):.0f})")
    finally:
        await model.unload()
        await engine.aclose()


if __name__ == "__main__":
    asyncio.run(main())
