"""Titles out of what people and models write."""

from __future__ import annotations

import pytest

from chorus_http.chats.titles import UNTITLED, title_of_answer, title_of_question


@pytest.mark.parametrize(
    ("question", "title"),
    [
        ("What is the capital of France?", "What is the capital of France?"),
        ("  two\n lines  ", "two lines"),
        ("word " * 40, "word " * 11 + "word…"),
        ("x" * 100, "x" * 60 + "…"),
        ("   ", UNTITLED),
    ],
)
def test_a_question_gives_its_first_words(question: str, title: str) -> None:
    assert title_of_question(question) == title


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ('"Capital of France"', "Capital of France"),
        ("**Title:** Capital of France.\n\nIt is about…", "Capital of France"),
        ("# Capital of France", "Capital of France"),
        ("\n\n  Sums \x1b[31m and numbers", "Sums [31m and numbers"),
        ("long " * 40, "long " * 15 + "long…"),
        ("\n \n", ""),
        ("***", ""),
    ],
)
def test_a_models_title_is_freed_of_what_models_put_around_one(answer: str, title: str) -> None:
    assert title_of_answer(answer) == title
