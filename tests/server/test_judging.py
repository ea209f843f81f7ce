"""What judges and writers read, and what is made of their words."""

from __future__ import annotations

import pytest

from chorus_proto.generation import Generation, Message
from chorus_server.judging import judged, judgement_wanted, question_of, synthesis_wanted


@pytest.mark.parametrize(
    ("said", "index"),
    [
        ("B", 1),
        ("b.", 1),
        ("Answer B", 1),
        ("**A**", 0),
        ("The best answer is C.", 2),
        ("B is better than A", 1),
        ("A and B", 0),
        ("Better: A or B?", None),
        ("D", None),
        ("", None),
        ("I do not know that.", None),
    ],
)
def test_a_judges_word_is_one_letter_of_those_it_was_given(said: str, index: int | None) -> None:
    assert judged(said, 3) == index


def test_a_judge_reads_question_and_answers_without_names() -> None:
    wanted = judgement_wanted("What is 2 + 2?", ["4", "x" * 5000])
    assert wanted.messages is not None
    (message,) = wanted.messages
    assert "What is 2 + 2?" in message.content
    assert "Answer A:\n4" in message.content
    assert "A, B." in message.content
    assert len(message.content) < 2500
    assert (wanted.temperature, wanted.max_tokens) == (0, 8)


def test_a_writer_gets_the_conversation_and_the_answers_of_others() -> None:
    asked = Generation(messages=(Message("system", "Be brief."), Message("user", "Hi")), max_tokens=50)
    wanted = synthesis_wanted(asked, ["Hello!", "Good day."])
    assert wanted.max_tokens == 50
    assert wanted.messages is not None
    assert [message.role for message in wanted.messages] == ["system", "user"]
    assert wanted.messages[0].content.startswith("Be brief.")
    assert "2. Good day." in wanted.messages[0].content
    plain = synthesis_wanted(Generation(prompt="Once upon"), ["a time"])
    assert plain.prompt is not None
    assert plain.prompt.endswith("Once upon")


def test_the_question_is_the_end_of_the_conversation() -> None:
    assert question_of(Generation(prompt="Once upon")) == "Once upon"
    assert question_of(Generation(messages=(Message("user", "Hi"),))) == "Hi"
    long = question_of(Generation(messages=(Message("user", "x" * 9000), Message("user", "the end"))))
    assert long.endswith("user: the end")
    assert len(long) == 6000
