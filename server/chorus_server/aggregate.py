"""Make one answer of several. Pure: the order of the members is the order in which they came."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from chorus_proto.cluster import MemberAnswer
from chorus_proto.errors import NoAnswer
from chorus_proto.ids import NodeId
from chorus_proto.values import AggregateStrategy
from chorus_server.voting import Ballot, tally

SHORT_ANSWER_CHARACTERS = 200
"""Up to here an answer is taken for one fact, whose number or choice letter alone decides whether two are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """One answer. `agreement` is the share of all answers that say the same as it, 0-1; `winners` said it.

    `disagreement` is the share of the votes, by weight, that are not for it.
    """

    text: str
    agreement: float
    winners: tuple[NodeId, ...]
    winning_members: tuple[int, ...] = ()
    disagreement: float = 0.0


def answered(members: Sequence[MemberAnswer]) -> list[MemberAnswer]:
    """Those who said something. Raises NoAnswer, naming each node's reason, when none did."""
    answers = [member for member in members if member.error is None and member.text.strip()]
    if not answers:
        raise NoAnswer(_why_none(members))
    return answers


def aggregate(
    strategy: AggregateStrategy, members: Sequence[MemberAnswer], weights: Mapping[int, float] | None = None
) -> Aggregate:
    """One answer from the members that answered; `weights` are of their votes, by `MemberAnswer.member`.

    A strategy that needs a model's judgement comes to what `VOTE` does. Raises NoAnswer, naming each node's reason,
    when none answered.
    """
    answers = answered(members)
    counts = {answer.member: 1.0 if weights is None else weights.get(answer.member, 0.0) for answer in answers}
    match strategy:
        case AggregateStrategy.FIRST | AggregateStrategy.RACE:
            return chosen(answers[0], answers, counts)
        case AggregateStrategy.LONGEST:
            return chosen(max(answers, key=lambda answer: len(answer.text.strip())), answers, counts)
        case AggregateStrategy.CONCAT:
            voted = chosen(_voted(answers, counts), answers, counts)
            text = "\n\n".join(f"[{answer.node_name}, {answer.model}]\n{answer.text.strip()}" for answer in answers)
            return replace(voted, text=text)
        case _:
            return chosen(_voted(answers, counts), answers, counts)


def chosen(answer: MemberAnswer, answers: Sequence[MemberAnswer], weights: Mapping[int, float]) -> Aggregate:
    """That answer, and who else said it."""
    said = meaning(answer.text)
    same = [other for other in answers if meaning(other.text) == said]
    total = sum(weights.values())
    won = sum(weights.get(other.member, 0.0) for other in same)
    return Aggregate(
        text=answer.text,
        agreement=len(same) / len(answers),
        winners=tuple(other.node_id for other in same),
        winning_members=tuple(other.member for other in same),
        disagreement=max(0.0, 1 - won / total) if total > 0 else 0.0,
    )


def _voted(answers: Sequence[MemberAnswer], weights: Mapping[int, float]) -> MemberAnswer:
    """The answer with most votes, in the words of the ablest who gave it; ties go to who came earliest."""
    ranking = tally(Ballot(meaning(answer.text), weights[answer.member]) for answer in answers)
    same = [answer for answer in answers if meaning(answer.text) == ranking[0][0]]
    return max(same, key=lambda answer: weights[answer.member])


def _why_none(members: Sequence[MemberAnswer]) -> str:
    if not members:
        return "no node was asked"
    reasons = (
        f"{member.node_name}: {member.error.message if member.error is not None else 'the answer was empty'}"
        for member in members
    )
    return f"none of {len(members)} nodes answered; " + "; ".join(reasons)


_NUMBER = r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)%?"
_ENDS_IN_NUMBER = re.compile(rf"(?:^|(?:\b(?:is|are|was|be|equals|answer|result)|'s|=|(?<!\d):)\s*)({_NUMBER})$")
_CHOICE = re.compile(r"(?:^|\b(?:answer|option|choice)(?:\s+is)?\s*:?\s*)\(?([a-j])(?:[):,]|$)")
_CONCLUSION = re.compile(r"^(?:####|\W*(?:final\s+)?answer\W*(?:\s+is\W*)?:)\s*(?P<said>\S.*)$", re.IGNORECASE)
_FENCE = re.compile(r"^```\w*\n(?P<inside>.*)\n```$", re.DOTALL)
_MARKUP = re.compile(r"\\boxed\{([^{}]*)\}|[*_`$]")

_EDGE = frozenset(
    ".,;:!?'\"()[]{}<>*_`~- \u2026\u201c\u201d\u2018\u2019\u00ab\u00bb\u2013\u2014\u00a1\u00bf\u3002\u3001\u300c\u300d"
)
"""Not `+ # % /` and the like: "C#" and "C" differ, and so do "50" and "50%"."""


def meaning(text: str) -> str:
    """What two answers to one question have in common when they say the same (`vote` of exact answers).

    A JSON object or array is itself with its keys sorted. Else a concluding last line ("Answer: 42", "#### 42") speaks
    for the whole. A short text that names one choice letter ("The answer is (B).", "B) Paris") is that letter, one that
    ends in a number ("2 + 2 = 4", "It is 4.") is that number, and every other text is itself, `normalised`.
    """
    stripped = text.strip()
    fenced = _FENCE.match(stripped)
    document = _json(fenced["inside"] if fenced else stripped)
    if document is not None:
        return f"json {document}"
    stripped = _MARKUP.sub(r"\1", stripped).strip()
    concluded = _CONCLUSION.match(stripped.rpartition("\n")[2].strip())
    plain = normalised(concluded["said"] if concluded else stripped)
    if len(plain) > SHORT_ANSWER_CHARACTERS:
        return plain
    letters = set(_CHOICE.findall(plain))
    if len(letters) == 1:
        return f"choice {letters.pop()}"
    number = _ENDS_IN_NUMBER.search(plain)
    return f"number {_canonical(number[1])}" if number else plain


def _json(text: str) -> str | None:
    if text[:1] not in ("{", "["):
        return None
    try:
        return json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None


def _canonical(number: str) -> str:
    """`1,000.50`, `+1000.5` and `1000.50` are one number; a percentage stays one."""
    percent = "%" if number.endswith("%") else ""
    digits = number.rstrip("%").replace(",", "").lstrip("+")
    negative = digits.startswith("-")
    whole, _, fraction = digits.lstrip("-").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    plain = f"{whole}.{fraction}" if fraction else whole
    return f"{'-' if negative and plain != '0' else ''}{plain}{percent}"


def normalised(text: str) -> str:
    """NFKC, case folded, white space collapsed, quotes and punctuation at both ends removed; articles stay."""
    folded = " ".join(unicodedata.normalize("NFKC", text.replace("\u2212", "-")).casefold().split())
    begin, end = 0, len(folded)
    # The sign or point of a number ("-5", ".5") belongs to it.
    while (
        begin < end
        and folded[begin] in _EDGE
        and not (folded[begin] in "-." and folded[begin + 1 : begin + 2].isdigit())
    ):
        begin += 1
    while end > begin and folded[end - 1] in _EDGE:
        end -= 1
    return folded[begin:end] or folded
