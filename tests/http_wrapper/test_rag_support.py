"""Mirrors chorus_http/rag/support.py."""

from __future__ import annotations

import pytest

from chorus_http.rag.documents import ChunkId, DocumentId, Passage
from chorus_http.rag.support import MarkerFilter, Support, support_of


def passage(number: int, text: str, similarity: float | None) -> Passage:
    return Passage(
        chunk_id=ChunkId(number),
        document_id=DocumentId("doc_1"),
        title="",
        text=text,
        headings=(),
        start=0,
        end=len(text),
        page=None,
        source=None,
        metadata={},
        similarity=similarity,
    )


def test_the_nearest_passage_and_the_one_with_most_words_of_the_question_speak_for_it() -> None:
    found = [passage(1, "The boiler is old.", 0.2), passage(2, "The cellar floods.", 0.3), passage(3, "Tea.", None)]
    support = support_of("When does the cellar flood in Norway?", found)
    assert support.similarity == 0.3
    assert 0.5 < support.words < 1


@pytest.mark.parametrize(
    ("similarity", "words", "reaches"),
    [(0.5, 0.0, True), (0.1, 0.0, False), (0.1, 0.75, True), (None, 0.0, True), (0.3, 0.0, True)],
)
def test_a_question_far_from_every_passage_is_answered_only_by_its_words(
    similarity: float | None, words: float, reaches: bool
) -> None:
    assert Support(similarity=similarity, words=words).reaches(0.3) is reaches


def test_a_threshold_of_nothing_refuses_nothing() -> None:
    assert Support(similarity=0.0, words=0.0).reaches(0.0)


@pytest.mark.parametrize(
    ("pieces", "shown", "found"),
    [
        (["[none] The price is missing."], "The price is missing.", True),
        (["[no", "ne]", " ", "The price."], "The price.", True),
        ([" [NONE]"], "", True),
        (["[1] says so."], "[1] says so.", False),
        (["[no", " idea]"], "[no idea]", False),
        (["[n"], "[n", False),
        (["Yes", " [none]"], "Yes [none]", False),
        ([], "", False),
    ],
)
def test_the_mark_of_an_answer_that_is_none_is_taken_off_however_it_is_cut(
    pieces: list[str], shown: str, found: bool
) -> None:
    marker = MarkerFilter()
    text = "".join([*(marker.feed(piece) for piece in pieces), marker.feed("", last=True)])
    assert (text, marker.found) == (shown, found)
