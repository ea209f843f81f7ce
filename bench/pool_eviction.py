"""Seconds of loading per request under three rules for which model a full pool gives up: ours, the least recently
used, and Ollama's (by name, as all keep alive equally long). All rules see the same requests in one run.

Three days, 15 models, one request in 30 s on average: 60 % ask for the model of the request before, the others draw
by Zipf(1) over a ranking in which three pairs of models change places every six hours (`--reshuffle`: the ranking
is drawn anew). Models larger than the pool are not asked for. Memory is `sizing` at 4k tokens on a discrete GPU; a
load takes a second and a second per gigabyte. The half-life was chosen on seeds 1 to 8; reported are others.

    python -m bench.pool_eviction [--reshuffle] [--seeds 16]
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from chorus_client.eviction import UseLog, WarmModel, evict
from chorus_proto import catalogue
from chorus_proto.ids import ModelName
from chorus_proto.sizing import DeviceKind, LoadShape, estimate

POOLS_BYTES = (11_000_000_000, 23_000_000_000, 46_000_000_000)
FIRST_SEED = 101
NAMES = (
    *("qwen3:0.6b", "gemma3:1b", "llama3.2:1b", "qwen3:1.7b", "llama3.2:3b", "qwen3:4b", "gemma3:4b", "mistral:7b"),
    *("llama3.1:8b", "qwen3:8b", "gemma3:12b", "phi4:14b", "qwen3:14b", "gpt-oss:20b", "mistral-small:24b"),
)
DAYS_S = 3 * 86_400.0
DRIFT_S = 6 * 3600.0
MEAN_GAP_S = 30.0
REPEATS = 0.6
SWAPS = 3


@dataclass(frozen=True, slots=True)
class Model:
    resident_bytes: int
    load_s: float


Request = tuple[float, ModelName]
Victims = Callable[[Mapping[ModelName, int], int, float], Sequence[ModelName]]
"""Loaded models with their bytes, bytes missing, now -> whom to unload."""


def models() -> dict[ModelName, Model]:
    found: dict[ModelName, Model] = {}
    for name in NAMES:
        entry = catalogue.entry(name)
        assert entry is not None
        load = LoadShape(context_tokens=4096)
        needed = estimate(entry.shape, entry.file_bytes, load, DeviceKind.DISCRETE_GPU).total_bytes
        found[entry.name] = Model(needed, 1.0 + entry.file_bytes / 1e9)
    return found


def requests(seed: int, names: Sequence[ModelName], *, reshuffle: bool) -> list[Request]:
    rng = random.Random(seed)
    ranking = list(names)
    rng.shuffle(ranking)
    weights = [1 / rank for rank in range(1, len(ranking) + 1)]
    now_s, drift_at_s = 0.0, DRIFT_S
    asked: list[Request] = []
    last: ModelName | None = None
    while (now_s := now_s + rng.expovariate(1 / MEAN_GAP_S)) < DAYS_S:
        while now_s > drift_at_s:
            drift_at_s += DRIFT_S
            if reshuffle:
                rng.shuffle(ranking)
            else:
                for _ in range(SWAPS):
                    one, other = rng.randrange(len(ranking)), rng.randrange(len(ranking))
                    ranking[one], ranking[other] = ranking[other], ranking[one]
        if last is None or rng.random() >= REPEATS:
            last = rng.choices(ranking, weights)[0]
        asked.append((now_s, last))
    return asked


class _InOrder:
    """Gives up models in one order until enough is free."""

    def __init__(self) -> None:
        self._used_s: dict[ModelName, float] = {}

    def record(self, model: ModelName, now_s: float) -> None:
        self._used_s[model] = now_s

    def by_last_use(self, warm: Mapping[ModelName, int], missing_bytes: int, now_s: float) -> list[ModelName]:
        return _taken(sorted(warm, key=lambda name: self._used_s[name]), warm, missing_bytes)

    def by_name(self, warm: Mapping[ModelName, int], missing_bytes: int, now_s: float) -> list[ModelName]:
        return _taken(sorted(warm), warm, missing_bytes)


def _taken(order: Sequence[ModelName], warm: Mapping[ModelName, int], missing_bytes: int) -> list[ModelName]:
    taken: list[ModelName] = []
    for name in order:
        if missing_bytes <= 0:
            break
        taken.append(name)
        missing_bytes -= warm[name]
    return taken


class _Ours:
    """The pool's own code: `UseLog` and `evict`."""

    def __init__(self, known: Mapping[ModelName, Model]) -> None:
        self._known = known
        self._log = UseLog()

    def record(self, model: ModelName, now_s: float) -> None:
        self._log.record(model, now_s)

    def victims(self, warm: Mapping[ModelName, int], missing_bytes: int, now_s: float) -> Sequence[ModelName]:
        seen = [
            WarmModel(
                model=name, resident_bytes=size, uses=self._log.value(name, now_s), load_s=self._known[name].load_s
            )
            for name, size in warm.items()
        ]
        return evict(seen, missing_bytes).models


def load_s_per_request(
    asked: Sequence[Request],
    known: Mapping[ModelName, Model],
    pool_bytes: int,
    record: Callable[[ModelName, float], None],
    victims: Victims,
) -> float:
    """Play the requests against a pool; seconds of loading per request."""
    warm: dict[ModelName, int] = {}
    loading_s = 0.0
    for now_s, name in asked:
        record(name, now_s)
        if name in warm:
            continue
        model = known[name]
        missing_bytes = model.resident_bytes - (pool_bytes - sum(warm.values()))
        if missing_bytes > 0:
            for victim in victims(warm, missing_bytes, now_s):
                del warm[victim]
        warm[name] = model.resident_bytes
        if sum(warm.values()) > pool_bytes:
            raise SystemExit("a rule freed too little")
        loading_s += model.load_s
    return loading_s / len(asked)


def compared(pool_bytes: int, seeds: Sequence[int], *, reshuffle: bool) -> tuple[float, float, float]:
    """Mean seconds per request over `seeds`: (Ollama's rule, least recently used, ours)."""
    known = models()
    fitting = [name for name, model in known.items() if model.resident_bytes <= pool_bytes]
    sums = [0.0, 0.0, 0.0]
    for seed in seeds:
        asked = requests(seed, fitting, reshuffle=reshuffle)
        plain, ours = _InOrder(), _Ours(known)
        rules: tuple[tuple[Callable[[ModelName, float], None], Victims], ...] = (
            (plain.record, plain.by_name),
            (plain.record, plain.by_last_use),
            (ours.record, ours.victims),
        )
        for index, (record, victims) in enumerate(rules):
            sums[index] += load_s_per_request(asked, known, pool_bytes, record, victims)
    by_name, by_last_use, own = (total / len(seeds) for total in sums)
    return by_name, by_last_use, own


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--reshuffle", action="store_true", help="draw the whole ranking anew every six hours")
    flags.add_argument("--seeds", type=int, default=16)
    options = flags.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
    print(f"load seconds per request, mean of seeds {seeds[0]}-{seeds[-1]}")
    print("  pool   Ollama's rule      LRU     ours   ours/LRU  ours/Ollama's")
    for pool_bytes in POOLS_BYTES:
        by_name, by_last_use, ours = compared(pool_bytes, seeds, reshuffle=options.reshuffle)
        print(
            f"{pool_bytes / 1e9:3.0f} GB {by_name:14.3f} {by_last_use:8.3f} {ours:8.3f}"
            f" {ours / by_last_use:10.3f} {ours / by_name:14.3f}"
        )


if __name__ == "__main__":
    main()
