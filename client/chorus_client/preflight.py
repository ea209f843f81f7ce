"""Does a model fit into what is free now, and if not, what would make it fit? Asked before any engine is started.

Other programs need no figure of their own: what they use is neither free nor ours. What earlier loads were promised
and do not hold yet (`Ledger`) is free in the operating system's eyes and is not free here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from chorus_client.eviction import WarmModel, evict
from chorus_client.ledger import RAM, Ledger, Place
from chorus_proto.ids import ModelName
from chorus_proto.sizing import (
    DISCRETE_GPU_BYTES,
    DeviceKind,
    Estimate,
    LoadShape,
    estimate,
    host_bytes,
    tokens_in_words,
)
from chorus_proto.values import EngineKind, ModelShape

LEAST_CONTEXT_TOKENS = 4096
"""A smaller context than this (or the model's own) is never proposed."""

_CONTEXT_STEP = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """What stays free in each memory: the larger of a fixed amount and a share (0-1) of all of it."""

    least_bytes: int = 512 << 20
    share: float = 0.05

    def of(self, total_bytes: int) -> int:
        return max(self.least_bytes, int(self.share * total_bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """One memory of this PC now. `free_bytes` as the system or the driver tells; None when it does not."""

    place: Place
    total_bytes: int
    free_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A load to be judged. `correction` is what measured footprints of the model were times their predictions.

    `gpu_share`: the part (0-1) of weights and cache that a discrete GPU takes; the host's memory holds the rest.
    """

    model: ModelName
    shape: ModelShape | None
    file_bytes: int
    load: LoadShape
    device: DeviceKind
    correction: float = 1.0
    gpu_share: float = 1.0
    engine: EngineKind = EngineKind.LLAMA_SERVER

    def at(self, context_tokens: int) -> Estimate:
        return estimate(
            self.shape, self.file_bytes, replace(self.load, context_tokens=context_tokens), self.device, self.engine
        )

    def corrected_bytes(self, found: Estimate) -> int:
        return round(found.total_bytes * self.correction)


class Fit(StrEnum):
    FITS = "fits"
    FITS_AFTER_EVICTING = "fits_after_evicting"
    DOES_NOT_FIT = "does_not_fit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer. `needs` is what to reserve in the ledger, by place; `words` is the arithmetic for people.

    `fitting_context_tokens`: the largest context that would do, with evictions where there is nothing else to try
    (DOES_NOT_FIT), without any where evicting is the other way (FITS_AFTER_EVICTING); None when there is none.
    """

    fit: Fit
    needs: Mapping[Place, int]
    evict: tuple[ModelName, ...]
    needed_bytes: int
    free_bytes: int | None
    context_tokens: int
    fitting_context_tokens: int | None
    words: str


@dataclass(frozen=True, slots=True)
class _Seat:
    """The places in which a load could lie, and how much it takes in each."""

    needs: dict[Place, int]
    main: tuple[Place, ...]


def preflight(
    need: Need,
    memories: Sequence[Memory],
    ledger: Ledger,
    resident: Mapping[Place, Sequence[WarmModel]],
    *,
    reserve: Reserve | None = None,
) -> Verdict:
    """Judge `need`. `resident` holds, by place, the loaded models with what each holds there.

    A discrete GPU load goes to the card with the most room, over all cards together only when none has enough alone. A
    place of unknown size or free memory refuses nothing: the engine will tell.
    """
    room = _Room(memories, ledger, resident, reserve or Reserve(), need.model)
    wanted = need.at(need.load.context_tokens)
    needed_bytes = need.corrected_bytes(wanted)
    seats = _seats(need, wanted, room)
    seat = next((one for one in seats if room.holds(one)), None)
    if seat is not None:
        return _verdict(Fit.FITS, need, wanted, needed_bytes, seat, room, ())
    smaller = _largest_context(need, lambda seat: room.holds(seat), room)
    best: tuple[tuple[ModelName, ...], _Seat] | None = None
    for one in seats:
        victims = room.victims(one)
        if victims is not None and (best is None or room.worth_s(victims) < room.worth_s(best[0])):
            best = victims, one
    if best is not None:
        return _verdict(Fit.FITS_AFTER_EVICTING, need, wanted, needed_bytes, best[1], room, best[0], smaller)
    smaller = smaller or _largest_context(need, lambda seat: room.victims(seat) is not None, room)
    return _verdict(Fit.DOES_NOT_FIT, need, wanted, needed_bytes, seats[0], room, (), smaller)


class _Room:
    """What is free in each place, for us."""

    def __init__(
        self,
        memories: Sequence[Memory],
        ledger: Ledger,
        resident: Mapping[Place, Sequence[WarmModel]],
        reserve: Reserve,
        model: ModelName,
    ) -> None:
        self.memories = {memory.place: memory for memory in memories}
        self.resident = resident
        self.promised = {place: ledger.outstanding_bytes(place, but=model) for place in self.memories}
        self.reserved = {place: reserve.of(memory.total_bytes) for place, memory in self.memories.items()}

    @property
    def cards(self) -> list[Place]:
        """Cards with the most room first."""
        cards = [place for place in self.memories if place != RAM]
        return sorted(cards, key=lambda place: (-(self.free(place) or 0), place))

    def free(self, place: Place) -> int | None:
        """Bytes that a new load may take; None when unknown."""
        memory = self.memories.get(place)
        if memory is None or memory.free_bytes is None:
            return None
        return max(0, memory.free_bytes - self.promised[place] - self.reserved[place])

    def missing(self, place: Place, needed_bytes: int) -> int:
        """Bytes short in `place`. Below zero the reserve is owed too, so an eviction must fill that up as well."""
        memory = self.memories.get(place)
        if needed_bytes == 0 or memory is None or memory.free_bytes is None:
            return 0
        return max(0, needed_bytes + self.promised[place] + self.reserved[place] - memory.free_bytes)

    def holds(self, seat: _Seat) -> bool:
        return all(self.missing(place, size) == 0 for place, size in seat.needs.items())

    def victims(self, seat: _Seat) -> tuple[ModelName, ...] | None:
        """Whom to evict so that `seat` is held; None when that cannot be."""
        chosen: dict[ModelName, None] = {}
        for place, size in seat.needs.items():
            here = self.resident.get(place, ())
            freed = sum(one.resident_bytes for one in here if one.model in chosen)
            found = evict([one for one in here if one.model not in chosen], self.missing(place, size) - freed)
            if not found.enough:
                return None
            chosen.update(dict.fromkeys(found.models))
        return tuple(chosen)

    def worth_s(self, models: Sequence[ModelName]) -> float:
        worth = {one.model: one.worth_s for place in self.resident for one in self.resident[place]}
        return sum(worth[model] for model in models)


def _seats(need: Need, found: Estimate, room: _Room) -> list[_Seat]:
    """Where the load could lie, best first."""
    needed_bytes = need.corrected_bytes(found)
    cards = room.cards
    if need.device is not DeviceKind.DISCRETE_GPU or not cards or needed_bytes == 0 or need.gpu_share == 0:
        return [_Seat({RAM: needed_bytes}, (RAM,))]
    host = host_bytes(need.load.slots, need.engine)
    if need.gpu_share < 1:
        # The rest of the layers, with their part of the cache, stays where the processor computes them.
        in_ram = int((1 - need.gpu_share) * need.correction * (found.weights_bytes + found.kv_bytes))
        return [_Seat({card: needed_bytes - in_ram, RAM: host + in_ram}, (card, RAM)) for card in cards]
    alone = [_Seat({card: needed_bytes, RAM: host}, (card,)) for card in cards]
    if len(cards) == 1:
        return alone
    # Layers are spread by free memory; every card has its own buffers and its own driver context.
    spread = need.corrected_bytes(replace(found, compute_bytes=0, overhead_bytes=0))
    free = [room.free(card) or 0 for card in cards]
    shares = {
        card: -(-spread * one // max(1, sum(free))) + found.compute_bytes + DISCRETE_GPU_BYTES
        for card, one in zip(cards, free, strict=True)
    }
    return [*alone, _Seat({**shares, RAM: host}, tuple(cards))]


def _largest_context(need: Need, fits: Callable[[_Seat], bool], room: _Room) -> int | None:
    """The largest context below the wanted one, in steps of 256, with which some seat fits."""
    trained = need.load.context_tokens if need.shape is None else need.shape.trained_context_tokens
    wanted = min(need.load.context_tokens, trained)
    least = min(LEAST_CONTEXT_TOKENS, trained)

    def fit_at(context_tokens: int) -> bool:
        return any(fits(seat) for seat in _seats(need, need.at(context_tokens), room))

    if need.shape is None or least >= wanted or not fit_at(least):
        return None
    low, high = least // _CONTEXT_STEP, -(-wanted // _CONTEXT_STEP)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fit_at(middle * _CONTEXT_STEP) else (low, middle)
    return max(least, low * _CONTEXT_STEP)


def _verdict(
    fit: Fit,
    need: Need,
    wanted: Estimate,
    needed_bytes: int,
    seat: _Seat,
    room: _Room,
    victims: tuple[ModelName, ...],
    smaller: int | None = None,
) -> Verdict:
    known = [free for place in seat.main if (free := room.free(place)) is not None]
    free_bytes = sum(known) if known else None
    needed_bytes = max(needed_bytes, sum(seat.needs[place] for place in seat.main))
    return Verdict(
        fit=fit,
        needs=seat.needs,
        evict=victims,
        needed_bytes=needed_bytes,
        free_bytes=free_bytes,
        context_tokens=wanted.context_tokens,
        fitting_context_tokens=smaller,
        words=_in_words(fit, wanted, needed_bytes, free_bytes, seat, room, victims, smaller),
    )


def _in_words(
    fit: Fit,
    wanted: Estimate,
    needed_bytes: int,
    free_bytes: int | None,
    seat: _Seat,
    room: _Room,
    victims: tuple[ModelName, ...],
    smaller: int | None,
) -> str:
    words = _arithmetic(wanted, needed_bytes)
    words += "; free memory is unknown" if free_bytes is None else f"; free {_size(free_bytes, needed_bytes)}"
    if fit is not Fit.FITS:
        words += f" ({_who_has_the_rest(seat, room)})"
    if fit is Fit.FITS_AFTER_EVICTING:
        words += f"; fits after unloading {', '.join(victims)}"
        words += f", or at {tokens_in_words(smaller)} at once" if smaller else ""
    if fit is Fit.DOES_NOT_FIT:
        scarce = [place for place in seat.needs if place not in seat.main and room.missing(place, seat.needs[place])]
        words += f"; {', '.join(scarce)} is short of {_size(seat.needs[scarce[0]])} too" if scarce else ""
        words += f"; fits at {tokens_in_words(smaller)}" if smaller else "; does not fit at any context"
    return words


def _arithmetic(wanted: Estimate, needed_bytes: int) -> str:
    """`needs 9.8 GB = 7.1 weights + 2.0 KV at 16k + 0.7 buffers`, and what earlier loads taught on top."""
    words = wanted.in_words()
    learned_bytes = needed_bytes - wanted.total_bytes
    if abs(learned_bytes) < max(wanted.total_bytes // 100, 1):
        return words
    _, _, sum_in_words = words.partition(" = ")
    sign = "+" if learned_bytes > 0 else "-"
    amount = _size(abs(learned_bytes), wanted.total_bytes)
    return f"needs {_size(needed_bytes)} = {sum_in_words} {sign} {amount} as measured before"


def _who_has_the_rest(seat: _Seat, room: _Room) -> str:
    parts: list[str] = []
    for place in seat.main:
        memory = room.memories.get(place)
        if memory is None or memory.free_bytes is None:
            continue
        ours = sum(one.resident_bytes for one in room.resident.get(place, ()))
        others = max(0, memory.total_bytes - memory.free_bytes - ours)
        figures = [
            f"{place}: {_size(memory.free_bytes)} of {_size(memory.total_bytes)} are unused",
            f"{_size(room.reserved[place])} stay in reserve",
        ]
        if room.promised[place]:
            figures.append(f"{_size(room.promised[place])} are promised to other loads")
        if ours:
            figures.append(f"models here hold {_size(ours)}")
        figures.append(f"other programs {_size(others)}")
        parts.append(", ".join(figures))
    return "; ".join(parts)


def _size(size_bytes: int, like_bytes: int | None = None) -> str:
    """`8.6 GB` or `512.0 MB`; beside a figure of the same unit only the number."""
    unit, one = ("GB", 1e9) if size_bytes >= 1e9 else ("MB", 1e6)
    if like_bytes is None:
        return f"{size_bytes / one:.1f} {unit}"
    if like_bytes >= 1e9:
        return f"{size_bytes / 1e9:.1f}"
    return f"{size_bytes / 1e6:.1f}" if size_bytes < 1e9 else f"{size_bytes / 1e9:.1f} GB"
