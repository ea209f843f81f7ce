"""The free memory of one maker's cards, asked again and again of a driver that may fail, hang or be late."""

from __future__ import annotations

import threading
from collections.abc import Callable

from chorus_client.hardware.bounded import ask
from chorus_proto.clock import Clock

DRIVER_RESTS_S = 60.0
"""So long a driver is left alone after it failed or was late: one that is always late holds up one heartbeat a minute,
and after a moment of full load or an update of the driver the PC is not blind for longer."""


class FreeMemory:
    """`question` tells the free bytes of each card in a fixed order, `cards` of them; it may block, fail or hang."""

    def __init__(self, maker: str, cards: int, question: Callable[[], tuple[int | None, ...]], clock: Clock) -> None:
        self._maker = maker
        self._cards = cards
        self._question = question
        self._clock = clock
        self._asks_again_s = clock.monotonic_s()
        self._late: threading.Event | None = None
        """Set once the question is over that was the last one without an answer."""

    async def read(self, within_s: float) -> tuple[int | None, ...]:
        """Free bytes by card, None where unknown. At once while the driver rests, else within `within_s` seconds."""
        unknown = (None,) * self._cards
        hangs = self._late is not None and not self._late.is_set()
        if hangs or self._clock.monotonic_s() < self._asks_again_s:
            return unknown
        over = threading.Event()

        def question() -> tuple[int | None, ...]:
            try:
                return self._question()
            finally:
                over.set()

        told = await ask(f"free memory of {self._maker}", question, within_s)
        # With fewer figures than cards nobody knows which one is missing.
        if told is None or len(told) < self._cards or all(free is None for free in told):
            self._late = over
            self._asks_again_s = self._clock.monotonic_s() + DRIVER_RESTS_S
            return unknown
        return told[: self._cards]
