"""How far `sizing` is from what the bundled models really take: four contexts, one and four slots, real processes.

Each engine first answers, in every slot at once, a prompt that fills its context, so that every buffer was touched.

    python -m bench.footprint_prediction
"""

from __future__ import annotations

import asyncio
import importlib.resources

import aiohttp
import psutil

from bench.load import percentile
from bench.processes import engine
from chorus_client.footprint import footprint
from chorus_proto import catalogue
from chorus_proto.catalogue import CatalogueEntry
from chorus_proto.sizing import DeviceKind, LoadShape, estimate

SHARES_OF_CONTEXT = (0.25, 0.5, 0.75, 1.0)
SLOTS = (1, 4)
ANSWER_TOKENS = 24
ROUNDS = 6
WITHIN_S = 60.0


async def warm_up(url: str, entry: CatalogueEntry, context_tokens: int, slots: int) -> None:
    """Fill the context of every slot, several times: which prompts share a batch is chance.

    Texts to embed go into a batch whole; only texts of several lengths, more than there are slots, ever fill one.
    """
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WITHIN_S)) as session:

        async def ask(number: int, length: int) -> None:
            tokens = [100 + number, *(200 + index % 700 for index in range(length - ANSWER_TOKENS - 8))]
            path, body = "/v1/completions", {"prompt": tokens, "max_tokens": ANSWER_TOKENS, "ignore_eos": True}
            if entry.embedding:
                path, body = "/v1/embeddings", {"input": tokens}
            async with session.post(url + path, json=body) as answer:
                if answer.status != 200:
                    raise SystemExit(f"{entry.name}: {answer.status} {await answer.text()}")

        lengths = [context_tokens] * slots
        if entry.embedding:
            lengths = [context_tokens // share for share in (1, 2, 3) for _ in range(slots)]
        for _ in range(ROUNDS):
            await asyncio.gather(*(ask(number, length) for number, length in enumerate(lengths)))


def measured_bytes(entry: CatalogueEntry, context_tokens: int, slots: int) -> int:
    model = importlib.resources.files("chorus_client").joinpath("models", str(entry.file))
    arguments = ["--model", str(model), "--parallel", str(slots), "--ctx-size", str(slots * context_tokens)]
    if entry.embedding:
        arguments.append("--embedding")
    with engine("chorus_client.llama_cpp_server", [*arguments, "--threads", "1"]) as url:
        asyncio.run(warm_up(url, entry, context_tokens, slots))
        found = footprint(psutil.Process().children(recursive=True))
    if found is None:
        raise SystemExit("the engine ended by itself")
    return found.total_bytes


def main() -> None:
    errors: list[float] = []
    print("model               slots  context  measured MB  predicted MB   error")
    for entry in catalogue.bundled():
        for slots in SLOTS:
            for share in SHARES_OF_CONTEXT:
                context_tokens = int(share * entry.shape.trained_context_tokens)
                measured = measured_bytes(entry, context_tokens, slots)
                load = LoadShape(context_tokens=context_tokens, slots=slots)
                predicted = estimate(entry.shape, entry.file_bytes, load, DeviceKind.CPU).total_bytes
                errors.append(predicted / measured - 1)
                print(
                    f"{entry.name:18s} {slots:6d} {context_tokens:8d} {measured / 1e6:12.1f} {predicted / 1e6:13.1f}"
                    f" {errors[-1]:7.1%}",
                    flush=True,
                )
    sizes = [abs(error) for error in errors]
    print(
        f"{len(errors)} loads: p50 {percentile(sizes, 0.5):.1%}, p95 {percentile(sizes, 0.95):.1%}, "
        f"largest over-estimate {max(errors):.1%}, largest under-estimate {min(errors):.1%}"
    )


if __name__ == "__main__":
    main()
