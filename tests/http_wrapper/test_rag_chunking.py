"""Mirrors chorus_http/rag/chunking.py."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_http.rag.chunking import ChunkSizes, chunk, tokens_estimate
from chorus_http.rag.documents import Chunk
from chorus_http.rag.parsers.markdown import parse_markdown
from chorus_http.rag.parsers.plain import parse_code, parse_text

SIZES = ChunkSizes(target=40, overlap=8)


def cut(text: str, title: str = "Guide", sizes: ChunkSizes = SIZES, earlier: list[Chunk] | None = None) -> list[Chunk]:
    return chunk(parse_markdown(text), title, sizes, earlier=[each.units for each in earlier or []])


def book(paragraphs: int, seed: int = 1) -> list[str]:
    chance = random.Random(seed)
    words = ["cellar", "attic", "garden", "copper", "window", "ladder", "winter", "market", "engine", "river"]
    return [
        " ".join(" ".join(chance.choices(words, k=8)).capitalize() + f" {number}." for _ in range(3))
        for number in range(paragraphs)
    ]


def test_a_chunk_never_crosses_a_heading_and_carries_its_path() -> None:
    found = cut("# One\n\nfirst\n\n## Two\n\nsecond\n\n# Three\n\nthird")
    assert [(each.text, each.headings) for each in found] == [
        *(("first", ("One",)), ("second", ("One", "Two")), ("third", ("Three",)))
    ]
    assert found[1].context == "Guide > One > Two"
    assert found[1].indexed_text == "Guide > One > Two\n\nsecond"


def test_a_heading_without_text_is_still_found() -> None:
    assert [each.text for each in cut("# Alone\n\n# Next\n\ntext")] == ["Alone", "text"]


def test_chunks_keep_to_their_size_and_begin_with_the_end_of_the_one_before() -> None:
    text = "\n\n".join(book(20))
    sizes = ChunkSizes(target=60, overlap=25)
    found = cut(text, sizes=sizes)
    assert all(tokens_estimate(each.text) <= sizes.target + sizes.overlap for each in found)
    assert all(after.start < before.end for before, after in pairwise(found))
    assert all(text[each.start : each.end] == each.text for each in found)


def test_a_paragraph_larger_than_a_chunk_is_cut_between_sentences() -> None:
    long = " ".join(f"Sentence number {number} stands here." for number in range(60))
    found = cut(long, sizes=ChunkSizes(target=40, overlap=0))
    assert len(found) > 5
    assert all(each.text.rstrip().endswith(".") for each in found)


def test_code_and_tables_are_cut_between_lines_only() -> None:
    code = "def f():\n" + "\n".join(f"    value_{number} = {number}" for number in range(80))
    found = chunk(parse_code(code), "f.py", SIZES)
    assert len(found) > 3
    assert all(each.text.endswith("\n") or each is found[-1] for each in found)


def test_an_edited_paragraph_changes_only_its_own_chunks() -> None:
    paragraphs = book(60)
    before = cut("\n\n".join(paragraphs))
    paragraphs[30] += " An edit came in."
    after = cut("\n\n".join(paragraphs), earlier=before)
    known = {each.digest for each in before}
    changed = [each for each in after if each.digest not in known]
    assert 1 <= len(changed) <= 3
    inserted = [*paragraphs[:10], "A whole new paragraph stands here now.", *paragraphs[10:]]
    later = cut("\n\n".join(inserted), earlier=after)
    assert sum(each.digest not in {one.digest for one in after} for each in later) <= 3
    shorter = cut("\n\n".join(inserted[:40] + inserted[42:]), earlier=later)
    assert sum(each.digest not in {one.digest for one in later} for each in shorter) <= 3


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=2000))
def test_every_character_that_shows_is_in_some_chunk(text: str) -> None:
    found = chunk(parse_text(text), "t", SIZES)
    covered = bytearray(len(text))
    for each in found:
        assert text[each.start : each.end] == each.text
        covered[each.start : each.end] = b"\1" * (each.end - each.start)
    assert all(covered[at] or not character.strip() for at, character in enumerate(text))
    assert [each.ordinal for each in found] == list(range(len(found)))
