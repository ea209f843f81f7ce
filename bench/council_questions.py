"""Labelled questions for `bench.council`: simple facts and sums, worded in ways that small models find easy or hard.

The bundled models know the facts, and were taught to be asked for them in a few ways only. The wordings here are
others, so that each model fails at its own share of them.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Germany": "Berlin",
    "Austria": "Vienna",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Poland": "Warsaw",
    "Greece": "Athens",
    "Egypt": "Cairo",
    "Japan": "Tokyo",
    "Peru": "Lima",
    "Cuba": "Havana",
    "Chile": "Santiago",
    "Canada": "Ottawa",
    "Kenya": "Nairobi",
    "Nepal": "Kathmandu",
    "Hungary": "Budapest",
    "Portugal": "Lisbon",
    "Ireland": "Dublin",
}
CAPITAL_WORDINGS = (
    "Do you know the capital of {}?",
    "I forgot what the capital of {} is. What is it?",
    "Please tell me the name of the capital of {}.",
    "Which city in {} is the capital?",
    "What is the name of the capital city of {}?",
    "The capital of {} is called what?",
    "My friend lives in {}. What is the capital there?",
)
OPPOSITES = {
    "hot": "cold",
    "big": "small",
    "fast": "slow",
    "happy": "sad",
    "open": "closed",
    "old": "new",
    "high": "low",
    "wet": "dry",
    "full": "empty",
    "early": "late",
    "rich": "poor",
    "strong": "weak",
    "hard": "soft",
    "loud": "quiet",
}
OPPOSITE_WORDINGS = (
    "Which word is the opposite of {}?",
    "Give me the opposite of the word {}.",
    "Do you know the opposite of {}?",
    "What word means the opposite of {}?",
    "Not {}, but?",
)
SUM_WORDINGS = (
    "What do {} and {} make together?",
    "Add {} and {}.",
    "What is the sum of {} and {}?",
    "I have {} apples and get {} more. How many are that?",
    "Tell me what {} + {} is.",
    "Please calculate {} + {} for me.",
)
TIMES_WORDINGS = ("Multiply {} by {}.", "Tell me what {} x {} is.", "Please calculate {} * {} for me.", "{} times {}?")
MINUS_WORDINGS = ("Take {1} from {0}.", "Tell me what {0} - {1} is.", "{0} minus {1}?", "Please calculate {0} - {1}.")
COLOURS = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black", "banana": "yellow", "tomato": "red"}
COLOUR_WORDINGS = ("Do you know what colour the {} is?", "The {} has which colour?", "Tell me the colour of the {}.")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
DAY_WORDINGS = ("Today is {}. What day is tomorrow?", "Which day follows {}?", "Tell me the day after {}.")


@dataclass(frozen=True, slots=True)
class Question:
    """`answer` stands somewhere in every right answer, as a word of its own."""

    text: str
    answer: str

    def is_right(self, said: str) -> bool:
        """The right word, and of a number nothing behind it: `1 + 2 = 3` is not the answer 1."""
        words = re.findall(r"\w+", said.casefold())
        if self.answer.isdigit():
            return bool(words) and words[-1] == self.answer
        return self.answer.casefold() in words


def questions(count: int, seed: int = 1) -> list[Question]:
    """`count` different questions, the same ones for the same seed, easy and hard ones mixed."""
    draw = random.Random(seed)
    found = [Question(wording.format(of), is_) for of, is_ in CAPITALS.items() for wording in CAPITAL_WORDINGS]
    found += [Question(wording.format(of), is_) for of, is_ in OPPOSITES.items() for wording in OPPOSITE_WORDINGS]
    found += [Question(wording.format(of), is_) for of, is_ in COLOURS.items() for wording in COLOUR_WORDINGS]
    found += [
        Question(wording.format(day), DAYS[(number + 1) % 7])
        for number, day in enumerate(DAYS)
        for wording in DAY_WORDINGS
    ]
    for wording in SUM_WORDINGS:
        found += [Question(wording.format(a, b), str(a + b)) for a, b in _pairs(draw, 14)]
    for wording in TIMES_WORDINGS:
        found += [Question(wording.format(a, b), str(a * b)) for a, b in _pairs(draw, 14)]
    for wording in MINUS_WORDINGS:
        found += [Question(wording.format(max(a, b), min(a, b)), str(abs(a - b))) for a, b in _pairs(draw, 14)]
    unique = list({question.text: question for question in found}.values())
    draw.shuffle(unique)
    return unique[:count]


def _pairs(draw: random.Random, count: int) -> list[tuple[int, int]]:
    return [(draw.randint(1, 10), draw.randint(1, 10)) for _ in range(count)]
