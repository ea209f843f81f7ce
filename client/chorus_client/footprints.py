"""What loads on this PC really took, beside what was predicted, kept over restarts; it corrects the next prediction.

Two rules come out of it: a load is never expected to take less than the same load of the same file took before, and a
size that failed for memory is not tried again until clearly more is free than then.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path

import msgspec

from chorus_proto.files import write_atomically
from chorus_proto.ids import ModelName
from chorus_proto.values import EngineKind

log = logging.getLogger(__name__)

FILE_NAME = "footprints.json"

LEAST_CORRECTION, MOST_CORRECTION = 0.5, 2.0
"""A prediction further off than this was about something else, e.g. a file that was replaced."""

SAME_FILE_SHARE = 0.03
"""The same file loaded in the same way is predicted the same, but for what a newer estimate may change. A prediction
further off than this share is about another file of that name; the next quantization differs by 4 % at least."""

_NEWEST_WEIGHT = 0.5
_KEPT_MEASURED = 4
_MOST_LOADS = 1024
_MOST_REFUSALS = 256
_CLEARLY_MORE = 0.05
"""Free memory wavers by itself; this share of the refused size must have come free on top."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadKey:
    """One way of loading one model. `params`: the engine parameters beside these, as one text."""

    model: ModelName
    engine: EngineKind
    context_tokens: int
    slots: int
    params: str = ""


class _Load(msgspec.Struct, kw_only=True):
    """Footprints of one LoadKey: the last few measured, and the smoothed ratio of measured to predicted."""

    model: str
    engine: str
    context_tokens: int
    slots: int
    predicted_bytes: int
    measured_bytes: list[int]
    correction: float
    params: str = ""

    @property
    def way(self) -> tuple[str, str, int, int, str]:
        return (self.model, self.engine, self.context_tokens, self.slots, self.params)

    def is_of(self, predicted_bytes: int) -> bool:
        """Whether a load predicted so is one of the same file."""
        return abs(self.predicted_bytes - predicted_bytes) <= SAME_FILE_SHARE * self.predicted_bytes


class _Refusal(msgspec.Struct, kw_only=True):
    model: str
    engine: str
    predicted_bytes: int
    free_bytes: int


class _Kept(msgspec.Struct, kw_only=True):
    """The file."""

    loads: list[_Load] = []
    refusals: list[_Refusal] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """The newest truth about one LoadKey, for `chorus models --memory`."""

    key: LoadKey
    predicted_bytes: int
    measured_bytes: int
    correction: float


class Footprints:
    """The memory of earlier loads. Every change is written at once, which blocks for some milliseconds; threads may
    share it."""

    def __init__(self, state_dir: Path) -> None:
        self._changing = threading.Lock()
        self._path = state_dir / FILE_NAME
        self._kept = _read(self._path)

    def record(self, key: LoadKey, *, predicted_bytes: int, measured_bytes: int) -> None:
        """A load that was predicted to take `predicted_bytes` (uncorrected) holds `measured_bytes`.

        Call it once after the load and again when it grew. It lifts refusals of sizes up to this one.
        """
        if predicted_bytes > 0 and measured_bytes > 0:
            with self._changing:
                self._record(key, predicted_bytes, measured_bytes)

    def _record(self, key: LoadKey, predicted_bytes: int, measured_bytes: int) -> None:
        ratio = _bounded(measured_bytes / predicted_bytes)
        known = self._find(key)
        if known is None or not known.is_of(predicted_bytes):
            correction, measured = ratio, [measured_bytes]
        else:
            correction = (1 - _NEWEST_WEIGHT) * known.correction + _NEWEST_WEIGHT * ratio
            measured = [*known.measured_bytes, measured_bytes][-_KEPT_MEASURED:]
        fresh = _Load(
            model=key.model,
            engine=key.engine.value,
            context_tokens=key.context_tokens,
            slots=key.slots,
            predicted_bytes=predicted_bytes,
            measured_bytes=measured,
            correction=correction,
            params=key.params,
        )
        # A new list: readers on other threads see the old one or this one.
        self._kept.loads = [*(one for one in self._kept.loads if one is not known), fresh][-_MOST_LOADS:]
        self._kept.refusals = [
            one
            for one in self._kept.refusals
            if (one.model, one.engine) != (key.model, key.engine.value) or one.predicted_bytes > predicted_bytes
        ]
        self._write()

    def correction(self, key: LoadKey) -> float:
        """Factor on predictions for `key`: its own, else the largest of the model's other loads, else 1."""
        known = self._find(key)
        if known is not None:
            return _bounded(known.correction)
        others = [
            one.correction for one in self._kept.loads if (one.model, one.engine) == (key.model, key.engine.value)
        ]
        return _bounded(max(others, default=1.0))

    def corrected(self, key: LoadKey, predicted_bytes: int) -> int:
        """What a load is expected to take: never less than the same load took in one of its last few times.

        Not what another file of that name took: one that was replaced by a smaller one would be refused for ever.
        """
        known = self._find(key)
        least_bytes = max(known.measured_bytes) if known is not None and known.is_of(predicted_bytes) else 0
        return max(round(predicted_bytes * self.correction(key)), least_bytes)

    def refuse(self, key: LoadKey, *, predicted_bytes: int, free_bytes: int) -> None:
        """A load predicted at `predicted_bytes` failed for memory while `free_bytes` were free."""
        fresh = _Refusal(
            model=key.model, engine=key.engine.value, predicted_bytes=predicted_bytes, free_bytes=free_bytes
        )
        with self._changing:
            self._kept.refusals = [*self._kept.refusals, fresh][-_MOST_REFUSALS:]
            self._write()

    def refused(self, key: LoadKey, *, predicted_bytes: int, free_bytes: int) -> int | None:
        """Bytes that must be free before this may be tried again, or None when nothing speaks against it."""
        needed = [
            one.free_bytes + int(_CLEARLY_MORE * one.predicted_bytes)
            for one in self._kept.refusals
            if (one.model, one.engine) == (key.model, key.engine.value) and predicted_bytes >= one.predicted_bytes
        ]
        most = max(needed, default=0)
        return most if free_bytes < most else None

    def allow(self, model: ModelName) -> None:
        """Forget the refusals of `model`: somebody asked for another try."""
        with self._changing:
            self._kept.refusals = [one for one in self._kept.refusals if one.model != model]
            self._write()

    def known(self) -> tuple[Footprint, ...]:
        """Everything measured so far, the oldest first. Loads of engines that this version lacks are left out."""
        kinds = {kind.value: kind for kind in EngineKind}
        return tuple(
            Footprint(
                key=LoadKey(
                    model=ModelName(one.model),
                    engine=kinds[one.engine],
                    context_tokens=one.context_tokens,
                    slots=one.slots,
                    params=one.params,
                ),
                predicted_bytes=one.predicted_bytes,
                measured_bytes=one.measured_bytes[-1],
                correction=_bounded(one.correction),
            )
            for one in self._kept.loads
            if one.engine in kinds
        )

    def _find(self, key: LoadKey) -> _Load | None:
        wanted = (key.model, key.engine.value, key.context_tokens, key.slots, key.params)
        return next((one for one in self._kept.loads if one.way == wanted), None)

    def _write(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, msgspec.json.encode(self._kept))
        except OSError as error:
            log.warning("footprints cannot be kept in %s: %s", self._path, error)


def _bounded(ratio: float) -> float:
    return min(MOST_CORRECTION, max(LEAST_CORRECTION, ratio))


def _read(path: Path) -> _Kept:
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
    except FileNotFoundError:
        return _Kept()
    except (OSError, msgspec.DecodeError) as error:
        log.warning("footprints in %s cannot be used and are measured anew: %s", path, error)
        return _Kept()
    kept.loads = [one for one in kept.loads if one.measured_bytes and min(one.measured_bytes) > 0][-_MOST_LOADS:]
    kept.refusals = kept.refusals[-_MOST_REFUSALS:]
    return kept
