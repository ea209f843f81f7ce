"""Does asking several models pay? `python -m bench.council [--questions 300]`, run from the project's root.

Three agents with the bundled models answer labelled questions (`bench.council_questions`): each alone, in a vote
weighed by what is learnt of them, before a judge, one of them ten times over. Accuracy beside what it cost, all in one
run of about three minutes.

The aims: the weighted vote at most 1 point below the best model alone; early stopping saves at least 40 % of the
samples; the aggregate of a fan-out comes within 1.05 of the slowest member waited for.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import cast

from bench.council_questions import Question, questions
from bench.processes import chorus_up
from chorus_server.aggregate import meaning
from chorus_server.voting import Ballot, tally

HARDWARE = Path(__file__).resolve().parents[1] / "docs" / "hardware"
AGENTS = {"weak": "demo-tiny", "middle": "demo-small", "strong": "demo-medium"}
SAMPLED = "demo-small"
COUNCILS = f"""
[council.vote]
tiers_apart = -1
wait_factor = 0
early_stop = false
yield_when_busy = false

[council.judge]
strategy = "judge"
judge = "demo-medium"
tiers_apart = -1
wait_factor = 0
yield_when_busy = false

[council.ten]
members = [{{ model = "{SAMPLED}" }}]
samples = 10
early_stop = false
wait_factor = 0
yield_when_busy = false

[council.ten-stopped]
members = [{{ model = "{SAMPLED}" }}]
samples = 10
yield_when_busy = false
"""
READY_WITHIN_S = 60.0
BELOW_BEST = 0.01
SAVED = 0.4
SLOWEST = 1.05
FAN_OUTS = 20
LONG_TOKENS = 400

Json = dict[str, object]


@dataclass(slots=True)
class Tally:
    """One way of asking, over all questions."""

    right: int = 0
    asked: int = 0
    answers: int = 0
    tokens: int = 0
    seconds: list[float] = field(default_factory=list[float])

    def add(self, *, right: bool, answers: int, tokens: int, seconds: float) -> None:
        self.right += right
        self.asked += 1
        self.answers += answers
        self.tokens += tokens
        self.seconds.append(seconds)

    @property
    def accuracy(self) -> float:
        return self.right / self.asked

    def row(self, name: str) -> str:
        return (
            f"{name:<34} right {self.accuracy:6.1%}   answers {self.answers / self.asked:5.2f}   "
            f"tokens {self.tokens / self.asked:6.1f}   p50 {median(self.seconds) * 1000:6.1f} ms"
        )


def chat(url: str, model: str, text: str, **more: object) -> Json:
    """One whole answer of the OpenAI API, at temperature 0 unless it is told otherwise."""
    body = {"model": model, "temperature": 0, "seed": 1, "max_tokens": 40, **more}
    body["messages"] = [{"role": "user", "content": text}]
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        return cast("Json", json.load(reply))


def said(answer: Json) -> str:
    (choice,) = cast("list[dict[str, Json]]", answer["choices"])
    return str(choice["message"]["content"])


def council_of(answer: Json) -> tuple[Json, list[Json]]:
    """The council's part in an answer, and its members."""
    shown = cast("Json", answer["x_council"])
    return shown, cast("list[Json]", shown["members"])


def ask_all(url: str, model: str, asked: Sequence[Question], found: Tally, equal: Tally | None = None) -> None:
    """Every question once. `equal` takes what the same answers would have come to with equal votes."""
    for question in asked:
        began_s = time.perf_counter()
        answer = chat(url, model, question.text)
        seconds = time.perf_counter() - began_s
        usage = cast("dict[str, int]", answer["usage"])
        members = council_of(answer)[1] if "x_council" in answer else []
        found.add(
            right=question.is_right(said(answer)),
            answers=max(1, sum("error" not in member for member in members)),
            tokens=usage["completion_tokens"],
            seconds=seconds,
        )
        if equal is not None:
            texts = {meaning(str(member["text"])): str(member["text"]) for member in members}
            ranking = tally(Ballot(meaning(str(member["text"])), 1.0) for member in members)
            right = question.is_right(texts[ranking[0][0]])
            equal.add(right=right, answers=len(members), tokens=usage["completion_tokens"], seconds=seconds)


def slowdowns(url: str) -> list[float]:
    """Time to the aggregate over the time of the slowest member, of long answers."""
    found: list[float] = []
    for number in range(FAN_OUTS):
        answer = chat(
            url, "council/vote", f"Tell me story {number}.", max_tokens=LONG_TOKENS, x_chorus={"ignore_end": True}
        )
        shown, members = council_of(answer)
        slowest_s = max(cast("float", member["seconds"]) for member in members)
        found.append(cast("float", shown["seconds"]) / slowest_s)
    return found


@contextmanager
def three_pcs(folder: Path) -> Generator[str]:
    """A hub and its three agents; the hub's HTTP address."""
    councils = folder / "councils.toml"
    councils.write_text(COUNCILS, encoding="utf-8")
    first, *others = AGENTS
    own = (f"--name={first}", f"--hardware={HARDWARE / f'{first}.toml'}", "--no-microbench")
    with ExitStack() as ends:
        hub = ends.enter_context(chorus_up(folder, f"--councils-file={councils}", *own))
        told = cast("dict[str, str]", json.loads((folder / "ready.json").read_text(encoding="utf-8")))
        for name in others:
            agent = subprocess.Popen(
                [
                    *(sys.executable, "-m", "chorus_cli", "agent", f"--join={told['join']}", f"--name={name}"),
                    *(f"--hardware={HARDWARE / f'{name}.toml'}", "--threads=1", "--no-microbench"),
                    f"--state-dir={folder / 'state'}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            ends.callback(agent.wait, timeout=30)
            ends.callback(agent.terminate)
        wait_for_models(hub.http_url)
        yield hub.http_url


def wait_for_models(url: str) -> None:
    ends_at_s = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < ends_at_s:
        with urllib.request.urlopen(f"{url}/status", timeout=10) as reply:
            ready = set(cast("list[str]", cast("Json", json.load(reply))["available_models"]))
        if ready >= set(AGENTS.values()):
            return
        time.sleep(0.05)
    raise SystemExit(f"not all models were ready within {READY_WITHIN_S:g} s")


def verdict(what: str, measured: str, *, kept: bool) -> bool:
    print(f"{what}: {measured}: {'kept' if kept else 'MISSED'}")
    return kept


def run(url: str, asked: Sequence[Question]) -> bool:
    """All ways of asking. True when the aims are kept."""
    ways = (*AGENTS.values(), "council/vote", "council/judge", "council/ten", "council/ten-stopped")
    results = {way: Tally() for way in ways}
    equal = Tally()
    for way, result in results.items():
        ask_all(url, way, asked, result, equal if way == "council/vote" else None)
        print(result.row(way), flush=True)
        if way == "council/vote":
            print(equal.row("  the same with equal votes"), flush=True)
    best = max(results[model].accuracy for model in AGENTS.values())
    vote = results["council/vote"].accuracy
    saved = 1 - results["council/ten-stopped"].answers / results["council/ten"].answers
    slower = median(slowdowns(url))
    return all(
        [
            verdict("weighted vote minus the best model", f"{vote - best:+.1%}", kept=vote >= best - BELOW_BEST),
            verdict("samples saved by stopping early", f"{saved:.1%}", kept=saved >= SAVED),
            verdict("aggregate over the slowest member", f"p50 {slower:.3f}", kept=slower <= SLOWEST),
        ]
    )


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--questions", type=int, default=300)
    arguments.add_argument("--seed", type=int, default=1)
    told = arguments.parse_args()
    asked = questions(told.questions, told.seed)
    print(f"{len(asked)} questions")
    with tempfile.TemporaryDirectory() as folder, three_pcs(Path(folder)) as url:
        return 0 if run(url, asked) else 1


if __name__ == "__main__":
    sys.exit(main())
