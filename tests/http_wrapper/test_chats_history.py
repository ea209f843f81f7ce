"""How much of a conversation is sent: all that fits, from its end, in whole turns."""

from __future__ import annotations

from chorus_http.chats.history import fitted
from chorus_http.chats.records import AnswerFacts, ChatMessage, MessageId, Role, Trimmed


def message(number: int, content: str = "x" * 300, answer: AnswerFacts | None = None) -> ChatMessage:
    """About 108 tokens by the estimate; even numbers ask, odd ones answer."""
    return ChatMessage(
        id=MessageId(f"m{number}"),
        parent_id=MessageId(f"m{number - 1}") if number else None,
        role=Role.ASSISTANT if number % 2 else Role.USER,
        content=content,
        created_unix_s=float(number),
        answer=answer,
    )


def conversation(messages: int) -> list[ChatMessage]:
    return [message(number) for number in range(messages)]


def kept(line: list[ChatMessage], context_tokens: int, *, system: str = "", refusals: int = 0) -> list[str]:
    sent = fitted(line, system, model="tiny", context_tokens=context_tokens, refusals=refusals)
    return [one.content for one in sent.messages]


def test_a_conversation_that_fits_is_sent_whole_and_nothing_is_said_to_be_missing() -> None:
    sent = fitted(conversation(5), "Be kind.", model="tiny", context_tokens=4096)
    assert [one.role for one in sent.messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert sent.trimmed is None
    assert sent.prompt_bytes == 5 * 300 + len("Be kind.")


def test_a_long_one_keeps_its_end_from_a_question_on_and_says_what_is_missing() -> None:
    line = conversation(41)
    sent = fitted(line, "Be kind.", model="tiny", context_tokens=1024)
    assert sent.messages[0].role == "system"
    assert sent.messages[1].role == "user"
    assert sent.messages[-1].content == line[-1].content
    assert sent.trimmed is not None
    assert sent.trimmed.dropped_messages + sent.trimmed.kept_messages == 41
    assert sent.trimmed.context_tokens == 1024
    assert sent.trimmed.kept_messages * 108 < 1024 * 0.75 * 0.75
    assert sent.trimmed.first_kept_id == line[sent.trimmed.dropped_messages].id


def test_what_a_conversation_begins_with_stays_the_same_for_some_turns_after_a_trimming() -> None:
    line = conversation(21)
    starts: list[str] = []
    while len(line) < 61:
        sent = fitted(line, "", model="tiny", context_tokens=2048)
        if sent.trimmed is not None:
            starts.append(sent.trimmed.first_kept_id)
        line.append(message(len(line), answer=AnswerFacts(model="tiny", trimmed=sent.trimmed)))
        line.append(message(len(line)))
    assert len(starts) > 15
    assert len(set(starts)) < len(starts) / 2


def test_tokens_are_counted_as_the_model_counted_them_before() -> None:
    greedy = AnswerFacts(model="tiny", prompt_tokens=600, prompt_bytes=600)
    line = conversation(21)
    counted = [*line[:-2], message(19, answer=greedy), line[-1]]
    assert len(kept(counted, 4096)) < len(kept(line, 4096)) == 21
    of_another = [
        *line[:-2],
        message(19, answer=AnswerFacts(model="big", prompt_tokens=600, prompt_bytes=600)),
        line[-1],
    ]
    assert len(kept(of_another, 4096)) == 21


def test_the_last_question_and_the_system_prompt_are_sent_even_when_they_cannot_fit() -> None:
    line = [*conversation(4), message(4, "y" * 30_000)]
    assert kept(line, 512, system="Be kind.") == ["Be kind.", "y" * 30_000]


def test_a_refusal_makes_less_be_sent_also_when_the_context_is_unknown() -> None:
    line = conversation(41)
    assert len(kept(line, 0)) == 41
    assert 41 > len(kept(line, 0, refusals=1)) > len(kept(line, 0, refusals=2)) >= 1
    assert len(kept(line, 4096, refusals=1)) < len(kept(line, 4096))


def test_room_is_left_for_the_answer() -> None:
    line = conversation(9)
    assert fitted(line, "", model="tiny", context_tokens=1024, answer_tokens=32).trimmed is None
    assert fitted(line, "", model="tiny", context_tokens=1024, answer_tokens=256).trimmed is not None


def test_a_larger_model_sees_all_again() -> None:
    trimmed = Trimmed(dropped_messages=2, kept_messages=2, context_tokens=512, first_kept_id=MessageId("m2"))
    line = [*conversation(3), message(3, answer=AnswerFacts(model="tiny", trimmed=trimmed)), message(4)]
    assert len(kept(line, 8192)) == 5
