"""How often each model is right, learnt from how often the others of a council agree with it.

Nobody tells which answer was right, so what most of the others say is taken for it, each by the weight of its vote: one
step of Dawid and Skene's "Maximum likelihood estimation of observer error-rates" (1979) for each question, with the
likeliest answer instead of all. A prior from the catalogue stands for the first votes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from chorus_proto.files import write_atomically
from chorus_proto.ids import ModelName
from chorus_server.voting import Ballot, tally

log = logging.getLogger(__name__)

FILE = "opinions.json"
PRIOR_VOTES = 20.0
MOST_VOTES = 500.0
"""Older votes fade beyond so many: models are replaced under the same name."""
FEWEST_VOTERS = 3
"""With fewer, agreement says nothing about who was right."""
MODELS_LIMIT = 1000


@dataclass(slots=True)
class _Record:
    votes: float = 0.0
    right: float = 0.0


class Opinions:
    """What is thought of each model; asked by name, with what the catalogue says of it."""

    def __init__(self) -> None:
        self._records: dict[ModelName, _Record] = {}
        self.changed = False
        """Since `saved` was last called."""

    def quality(self, model: ModelName, prior: float) -> float:
        """Expected share of right answers, 0-1; `prior` is what was thought before any vote."""
        record = self._records.get(model)
        if record is None:
            return prior
        return (PRIOR_VOTES * prior + record.right) / (PRIOR_VOTES + record.votes)

    def learn(self, votes: Sequence[tuple[ModelName, Ballot]]) -> None:
        """Take note of one question. A model never vouches for itself: its other answers are left out."""
        if len(votes) < FEWEST_VOTERS or not _some_agree(votes):
            return
        for model, ballot in votes:
            ranking = tally(other for name, other in votes if name != model)
            leaders = [meaning for meaning, weight in ranking if weight == ranking[0][1]]
            if leaders:
                self._note(model, (ballot.meaning in leaders) / len(leaders))

    def saved(self) -> bytes:
        """As `restore` takes it."""
        self.changed = False
        return msgspec.json.encode(self._records)

    def restore(self, raw: bytes) -> None:
        """Raises msgspec.MsgspecError when `raw` is something else; nothing has changed then."""
        self._records = msgspec.json.decode(raw, type=dict[ModelName, _Record])

    def _note(self, model: ModelName, right: float) -> None:
        if model not in self._records and len(self._records) >= MODELS_LIMIT:
            return
        record = self._records.setdefault(model, _Record())
        self.changed = True
        fade = MOST_VOTES / (MOST_VOTES + 1) if record.votes >= MOST_VOTES else 1.0
        record.votes = record.votes * fade + 1
        record.right = record.right * fade + right


def _some_agree(votes: Sequence[tuple[ModelName, Ballot]]) -> bool:
    """Two different models said the same. Where all differ, as free texts do, nobody has been wrong by that."""
    models_of: dict[str, set[ModelName]] = {}
    for model, ballot in votes:
        models_of.setdefault(ballot.meaning, set()).add(model)
    return any(len(models) > 1 for models in models_of.values())


def read_opinions(opinions: Opinions, folder: Path) -> None:
    """Take back what was learnt before; a file that is missing or damaged costs that alone. Blocking."""
    path = folder.expanduser() / FILE
    try:
        opinions.restore(path.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("%s cannot be read, councils begin to learn anew: %s", path, error)


async def keep_opinions(opinions: Opinions, folder: Path) -> None:
    """Write down what was learnt since the last time. A full disk is only logged."""
    if not opinions.changed:
        return
    raw = opinions.saved()
    try:
        await asyncio.to_thread(lambda: write_atomically(folder.expanduser() / FILE, raw))
    except OSError as error:
        opinions.changed = True
        log.warning("%s in %s cannot be written: %s", FILE, folder, error)
