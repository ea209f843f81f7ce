"""How well passages are found: `python -m bench.rag_quality`, run from the project's root.

The labelled questions of `bench/rag_set` are asked with the real embedding model: by words alone, by vectors alone and
by both fused, all in one run. Printed are recall@5 (the share of the needed documents among the first five), MRR@10 and
nDCG@10 over documents; how often a sentence with 40 % of its words dropped finds its own chunk; and how well what was
found tells questions that have an answer from those that have none, at several thresholds.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from chorus_cli.embedding_engine import EmbeddingEngine
from chorus_http.rag.documents import Mode, Passage
from chorus_http.rag.engine_embedder import EngineEmbedder
from chorus_http.rag.ingest import Submission
from chorus_http.rag.library import Library, LibraryLimits
from chorus_http.rag.search import Question
from chorus_http.rag.sqlite_store import SqliteStore
from chorus_http.rag.support import CALIBRATED_SIMILARITY, Support, support_of
from chorus_proto.clock import SystemClock

SET = Path(__file__).parent / "rag_set"
OWNER, COLLECTION = "bench", "lindenhof"
TOP = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    kind: str
    text: str
    documents: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Means over questions."""

    recall_at_5: float
    mrr_at_10: float
    ndcg_at_10: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    by_mode: dict[Mode, Scores]
    by_kind: dict[tuple[Mode, str], Scores]
    known_item_at_5: dict[Mode, float]
    support: list[tuple[bool, Support]]
    """Of each question: has it an answer, and what was found for it."""
    answerable_auc: float
    """How often the best similarity of an answerable question is above that of an unanswerable one."""


def labelled() -> list[Labelled]:
    rows = tomllib.loads((SET / "questions.toml").read_text("utf-8"))["question"]
    return [
        Labelled(kind=row["kind"], text=row["text"], documents=frozenset(cast("list[str]", row["documents"])))
        for row in rows
    ]


def documents() -> list[Submission]:
    rows = tomllib.loads((SET / "documents.toml").read_text("utf-8"))["document"]
    return [
        Submission(raw=row["text"].strip().encode(), name=f"{row['id']}.md", title=row["title"], source=row["id"])
        for row in rows
    ]


def scores(rankings: Sequence[Sequence[str]], wanted: Sequence[frozenset[str]]) -> Scores:
    recall = mrr = ndcg = 0.0
    for ranking, needed in zip(rankings, wanted, strict=True):
        recall += len(needed & set(ranking[:5])) / len(needed)
        mrr += next((1 / rank for rank, one in enumerate(ranking[:10], 1) if one in needed), 0.0)
        gain = sum(1 / math.log2(rank + 1) for rank, one in enumerate(ranking[:10], 1) if one in needed)
        ndcg += gain / sum(1 / math.log2(rank + 1) for rank in range(1, min(len(needed), 10) + 1))
    count = len(rankings)
    return Scores(recall_at_5=recall / count, mrr_at_10=mrr / count, ndcg_at_10=ndcg / count)


def ranking_of(passages: Sequence[Passage]) -> list[str]:
    """Documents, each at its best passage."""
    return list(dict.fromkeys(passage.source or "" for passage in passages))


async def measure() -> Quality:
    embedder = EngineEmbedder(EmbeddingEngine(threads=1), within_s=120)
    with tempfile.TemporaryDirectory(prefix="chorus-bench-") as folder:
        store = SqliteStore(Path(folder, "rag.sqlite3"), memory_bytes=2**28)
        limits = LibraryLimits(file_bytes=2**20, parse_within_s=30)
        library = Library(store, embedder, SystemClock(), limits)
        try:
            ingest = library.add(OWNER, COLLECTION, documents())
            await library.ingests.wait(ingest)
            failed = [item.error for item in ingest.items if item.error is not None]
            if failed:
                raise failed[0]
            return await _measured(library)
        finally:
            await library.close()


async def _measured(library: Library) -> Quality:
    questions = labelled()
    answerable = [question for question in questions if question.documents]
    by_mode: dict[Mode, Scores] = {}
    by_kind: dict[tuple[Mode, str], Scores] = {}
    known: dict[Mode, float] = {}
    for mode in Mode:
        found = [ranking_of(await _found(library, question.text, mode)) for question in answerable]
        by_mode[mode] = scores(found, [question.documents for question in answerable])
        groups: dict[str, list[int]] = defaultdict(list)
        for number, question in enumerate(answerable):
            groups[question.kind].append(number)
        for kind, numbers in groups.items():
            some = [found[number] for number in numbers]
            by_kind[mode, kind] = scores(some, [answerable[number].documents for number in numbers])
        known[mode] = await _known_items(library, mode)
    near = [(bool(question.documents), await _similarity(library, question.text)) for question in questions]
    pairs = [(yes, no) for is_yes, yes in near if is_yes for is_no, no in near if not is_no]
    auc = sum((yes > no) + 0.5 * (yes == no) for yes, no in pairs) / len(pairs)
    support = [
        (bool(question.documents), support_of(question.text, (await _found(library, question.text, Mode.HYBRID))[:5]))
        for question in questions
    ]
    return Quality(by_mode=by_mode, by_kind=by_kind, known_item_at_5=known, answerable_auc=auc, support=support)


def refused(support: Sequence[tuple[bool, Support]], least: float, *, answerable: bool) -> float:
    """Which share of the questions with (or without) an answer is refused at this threshold."""
    some = [one for has_answer, one in support if has_answer is answerable]
    return sum(not one.reaches(least) for one in some) / len(some)


async def _found(library: Library, text: str, mode: Mode) -> list[Passage]:
    return await library.search(OWNER, COLLECTION, Question(text=text, top_k=TOP, mode=mode))


async def _similarity(library: Library, text: str) -> float:
    found = await _found(library, text, Mode.VECTORS)
    return max((passage.similarity or 0.0 for passage in found), default=0.0)


async def _known_items(library: Library, mode: Mode) -> float:
    """Labels for free: of each document one sentence, thinned."""
    chance = random.Random(1)
    hits = 0
    rows = documents()
    for row in rows:
        sentences = [one for one in row.raw.decode().replace("\n", " ").split(". ") if len(one.split()) >= 8]
        words = chance.choice(sentences).split()
        kept = [word for word in words if chance.random() >= 0.4]
        hits += row.source in {passage.source for passage in (await _found(library, " ".join(kept), mode))[:5]}
    return hits / len(rows)


def main() -> int:
    quality = asyncio.run(measure())
    questions = labelled()
    print(f"{len(documents())} documents, {len(questions)} questions")
    for mode, each in quality.by_mode.items():
        print(
            f"{mode:<8} recall@5 {each.recall_at_5:.3f}   MRR@10 {each.mrr_at_10:.3f}   "
            f"nDCG@10 {each.ndcg_at_10:.3f}   thinned sentence in the top 5 {quality.known_item_at_5[mode]:.3f}"
        )
    for kind in dict.fromkeys(question.kind for question in questions if question.documents):
        told = (f"{mode} {quality.by_kind[mode, kind].recall_at_5:.3f}" for mode in Mode)
        print(f"{kind:<12} recall@5 {'   '.join(told)}")
    print(f"answerable questions are nearer than unanswerable ones in {quality.answerable_auc:.3f} of the pairs")
    for least in sorted({0.26, 0.3, CALIBRATED_SIMILARITY, 0.38, 0.42}):
        right, wrong = (refused(quality.support, least, answerable=one) for one in (False, True))
        chosen = "  <- rag_least_similarity" if least == CALIBRATED_SIMILARITY else ""
        print(f"below {least:.2f}: refused {right:.2f} without an answer, {wrong:.3f} with one{chosen}")
    hybrid = quality.by_mode[Mode.HYBRID]
    parts = [quality.by_mode[Mode.WORDS], quality.by_mode[Mode.VECTORS]]
    worse = any(hybrid.recall_at_5 < each.recall_at_5 or hybrid.ndcg_at_10 < each.ndcg_at_10 for each in parts)
    print("both fused are worse than one alone" if worse else "both fused are at least as good as each alone")
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
