"""Microseconds that a splitter of thoughts takes for one chunk of a stream: the mean, of the best of several runs.

The aim is 5 µs. `bare` makes the same parts without looking, so the difference is what splitting costs.

    python -m bench.thinking [--chunks 100000]
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence

from chorus_client.thinking.counts import CountingSplitter
from chorus_client.thinking.harmony import HarmonySplitter
from chorus_client.thinking.splitter import Splitter, Unsplit
from chorus_client.thinking.think_tags import ThinkTagSplitter

AIM_US = 5.0
RUNS = 5
WORDS = (
    " the",
    " model",
    " says",
    ",",
    " that",
    " 2",
    " +",
    " 2",
    " =",
    " 4",
    ".",
    "\n",
    " a",
    " <b>",
    " if",
    " x",
    " <",
)
HEADER = ("<|start|>", "assistant", "<|channel|>", "analysis", "<|message|>")


def words(count: int) -> list[str]:
    rng = random.Random(1)
    return [rng.choice(WORDS) for _ in range(count)]


def in_tags(count: int) -> list[str]:
    return ["<think>", *words(count // 2), "</think>", "\n\n", *words(count // 2)]


def in_channels(count: int) -> list[str]:
    thought = [*HEADER[2:], *words(count // 2), "<|end|>"]
    return [*thought, *HEADER[:3], "final", "<|message|>", *words(count // 2), "<|return|>"]


def in_short_messages(count: int) -> list[str]:
    """Six chunks of structure for four of text: as much structure as no model writes."""
    message = [*HEADER, *words(4), "<|end|>"]
    return message * (count // len(message))


def in_characters(count: int) -> list[str]:
    return list("".join(in_channels(count // 3)))


def only_beginnings(count: int) -> list[str]:
    return ["<think>", *(["</thin"] * count)]


CASES: tuple[tuple[str, Callable[[], Splitter], Callable[[int], list[str]]], ...] = (
    ("bare", Unsplit, words),
    ("<think>, tokens", ThinkTagSplitter, in_tags),
    ("<think>, tokens counted", lambda: CountingSplitter(ThinkTagSplitter()), in_tags),
    ("<think>, only beginnings of its end", ThinkTagSplitter, only_beginnings),
    ("harmony, tokens", HarmonySplitter, in_channels),
    ("harmony, tokens counted", lambda: CountingSplitter(HarmonySplitter()), in_channels),
    ("harmony, messages of four tokens", HarmonySplitter, in_short_messages),
    ("harmony, single characters", HarmonySplitter, in_characters),
)


def us_per_chunk(make: Callable[[], Splitter], chunks: Sequence[str]) -> float:
    splitter = make()
    began = time.perf_counter()
    for chunk in chunks:
        splitter.feed(chunk)
    splitter.finish()
    return (time.perf_counter() - began) / len(chunks) * 1e6


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--chunks", type=int, default=100_000)
    count: int = arguments.parse_args().chunks
    bare = worst = 0.0
    for name, make, chunked in CASES:
        chunks = chunked(count)
        best = min(us_per_chunk(make, chunks) for _ in range(RUNS))
        bare = bare or best
        worst = max(worst, best)
        print(f"{name:<38} {best:6.2f} µs per chunk, {best / bare:5.1f} times bare")
    print(f"worst {worst:.2f} µs, aim {AIM_US:.0f} µs: {'kept' if worst <= AIM_US else 'MISSED'}")
    return 0 if worst <= AIM_US else 1


if __name__ == "__main__":
    sys.exit(main())
