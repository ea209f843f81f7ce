"""What a judge and a writer are asked, and how a judge's word is read. Pure.

A judge prefers what it reads first or last (Zheng et al., "Judging LLM-as-a-judge", arXiv 2306.05685), so it reads the
answers twice, the second time in reverse order, and its word counts when it says the same. Answers carry letters
instead of names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from chorus_proto.generation import Generation, Message

CANDIDATE_CHARACTERS = 1600
"""Of each answer, about 400 tokens: a judge reads them all."""
MOST_CANDIDATES = 8
QUESTION_CHARACTERS = 6000
_LETTERS = "ABCDEFGH"
_NAMED = re.compile(r"\b([A-H])\b")


def question_of(generation: Generation) -> str:
    """The conversation as one text, its end kept where it is too long."""
    if generation.messages is None:
        text = generation.prompt or ""
    elif len(generation.messages) == 1:
        text = generation.messages[0].content
    else:
        text = "\n\n".join(f"{message.role}: {message.content}" for message in generation.messages)
    return text[-QUESTION_CHARACTERS:]


def judgement_wanted(question: str, answers: Sequence[str]) -> Generation:
    """Which of the answers is best, as one letter. At most `MOST_CANDIDATES` answers."""
    listed = "\n\n".join(f"Answer {letter}:\n{_cut(answer)}" for letter, answer in zip(_LETTERS, answers, strict=False))
    letters = ", ".join(_LETTERS[: len(answers)])
    text = (
        f"Question:\n{question}\n\n{listed}\n\nWhich answer is correct and most helpful? "
        f"Reply with one letter only: {letters}."
    )
    return Generation(messages=(Message(role="user", content=text),), max_tokens=8, temperature=0)


def judged(said: str, count: int) -> int | None:
    """Index of the answer that a judge's reply names; None when it names none, or several."""
    named = {letter for letter in _NAMED.findall(said.upper()) if letter in _LETTERS[:count]}
    if len(named) != 1:
        # "Answer A is better than ..." and the like: a reply that begins with a letter has said its word.
        begins = re.match(r"\W*([A-H])\b", said)
        named = {begins[1]} & set(_LETTERS[:count]) if begins else set[str]()
    return _LETTERS.index(named.pop()) if len(named) == 1 else None


def synthesis_wanted(generation: Generation, answers: Sequence[str]) -> Generation:
    """The caller's own request, with the answers of others to write a better one from (Wang et al., "Mixture-of-agents
    enhances large language model capabilities", arXiv 2406.04692)."""
    listed = "\n\n".join(f"{number}. {_cut(answer)}" for number, answer in enumerate(answers[:MOST_CANDIDATES], 1))
    guide = (
        "Several assistants have answered the user's last message; their answers stand below. Some may be wrong. "
        "Weigh them, and write one correct, complete answer in your own words, without mentioning them.\n\n" + listed
    )
    if generation.messages is None:
        return msgspec.structs.replace(generation, prompt=f"{guide}\n\n{generation.prompt or ''}")
    messages = list(generation.messages)
    if messages and messages[0].role == "system":
        messages[0] = Message(role="system", content=f"{messages[0].content}\n\n{guide}")
    else:
        messages.insert(0, Message(role="system", content=guide))
    return msgspec.structs.replace(generation, messages=tuple(messages))


def _cut(text: str) -> str:
    plain = text.strip()
    return plain if len(plain) <= CANDIDATE_CHARACTERS else plain[:CANDIDATE_CHARACTERS] + " …"
