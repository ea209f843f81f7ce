"""The figures of `bench.rag_quality`, held against what is promised: both fused are never worse than one alone."""

from __future__ import annotations

import asyncio

from bench.rag_quality import documents, labelled, measure, refused
from chorus_http.rag.documents import Mode
from chorus_http.rag.support import CALIBRATED_SIMILARITY

KINDS = {"fact", "paraphrase", "number", "negation", "multi_hop", "unanswerable"}


def test_the_labelled_set_is_as_large_as_promised_and_names_only_its_own_documents() -> None:
    sources = {one.source for one in documents()}
    questions = labelled()
    assert len(sources) == len(documents()) >= 40
    assert len({question.text for question in questions}) == len(questions) >= 60
    assert {question.kind for question in questions} == KINDS
    assert all(question.documents <= sources for question in questions)
    assert all(bool(question.documents) == (question.kind != "unanswerable") for question in questions)


def test_both_fused_find_at_least_what_each_finds_alone_with_the_real_model() -> None:
    quality = asyncio.run(measure())
    hybrid = quality.by_mode[Mode.HYBRID]
    for mode in (Mode.WORDS, Mode.VECTORS):
        assert hybrid.recall_at_5 >= quality.by_mode[mode].recall_at_5
        assert hybrid.ndcg_at_10 >= quality.by_mode[mode].ndcg_at_10
    assert hybrid.recall_at_5 >= 0.97
    assert quality.known_item_at_5[Mode.HYBRID] >= 0.97
    assert refused(quality.support, CALIBRATED_SIMILARITY, answerable=False) >= 0.5
    assert refused(quality.support, CALIBRATED_SIMILARITY, answerable=True) <= 0.05
