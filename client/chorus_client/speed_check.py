"""Are the engines still as fast as they were? Asked after the PC slept: an engine that lost its GPU then goes on, on
the CPU, at a fraction of its speed (known of Ollama and of NVIDIA's driver), and only a restart brings the GPU back.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass

from chorus_client.pool import Pool
from chorus_client.pooled_model import PooledModel
from chorus_proto.clock import Clock
from chorus_proto.errors import ClusterError
from chorus_proto.generation import Delta, Done, Generation
from chorus_proto.values import ReplicaState

log = logging.getLogger(__name__)

TRIAL = Generation(prompt="Count from one to fifty in words:", max_tokens=32, temperature=0.0)
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedRules:
    """`least_share` of the recorded speed is slow. `trial_within_s`: one trial is cut then, and counted as it is.
    `drain_within_s`: answers that run on a slow engine may end before it is started again. `restart_within_s`: longest
    wait for it then."""

    least_share: float = 0.5
    tries: int = 2
    trial_within_s: float = 10.0
    quiet_within_s: float = 5.0
    drain_within_s: float = 30.0
    restart_within_s: float = 600.0


async def check_speeds(pool: Pool, clock: Clock, rules: SpeedRules) -> None:
    """Try every model that has a record. Slow ones are told, started again, and tried again."""
    async with asyncio.TaskGroup() as group:
        for one in pool.models():
            record = one.speed.tokens_per_s
            if record is not None and one.state is ReplicaState.READY and not one.wish.adopted:
                group.create_task(_Check(pool, clock, rules, one, record).run(), name=f"speed:{one.model}")


class _Check:
    """Of one model, whose speed was `record` before."""

    def __init__(self, pool: Pool, clock: Clock, rules: SpeedRules, one: PooledModel, record: float) -> None:
        self._pool = pool
        self._clock = clock
        self._rules = rules
        self._one = one
        self._record = record

    async def run(self) -> None:
        speed = await self._best_speed()
        if speed is None or not self._is_slow(speed):
            return
        self._one.degraded(speed, self._record)
        log.warning("%s is slow after the PC's sleep: %.1f of %.1f tokens/s", self._one.model, speed, self._record)
        before = self._one.ready_at_s
        await self._one.drained(self._rules.drain_within_s)
        self._one.restart(f"after the PC's sleep it generates {speed:.1f} tokens/s, before it {self._record:.1f}")
        try:
            async with asyncio.timeout(self._rules.restart_within_s):
                while self._one.state is not ReplicaState.READY or self._one.ready_at_s == before:  # noqa: ASYNC110  # a model has no bell for its states
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            return
        speed = await self._best_speed()
        if speed is None:
            return
        if self._is_slow(speed):
            log.warning("%s stays slow: %.1f of %.1f tokens/s", self._one.model, speed, self._record)
            self._one.degraded(speed, self._record)
        else:
            self._one.recovered()

    def _is_slow(self, tokens_per_s: float) -> bool:
        return tokens_per_s < self._rules.least_share * self._record

    async def _best_speed(self) -> float | None:
        """Of some trials: whatever else the PC does just now makes one slower, never faster."""
        best: float | None = None
        for _ in range(self._rules.tries):
            speed = await self._speed()
            if speed is not None:
                best = max(best or 0.0, speed)
            if best is not None and not self._is_slow(best):
                break
        return best

    async def _speed(self) -> float | None:
        """Tokens per second of one trial alone; None when others use the model or it fails, which others look after."""
        try:
            async with asyncio.timeout(self._rules.quiet_within_s):
                while self._one.running:  # noqa: ASYNC110  # a model has no bell for its uses
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            return None
        first_s: float | None = None
        tokens = 0
        try:
            with self._pool.acquire(self._one.model) as hold:
                async with (
                    asyncio.timeout(self._rules.trial_within_s),
                    aclosing(hold.generate(TRIAL, learn=False)) as batches,
                ):
                    async for pieces in batches:
                        for piece in pieces:
                            if isinstance(piece, Done):
                                return piece.decode_tokens_per_s if tokens > 1 else None
                            if isinstance(piece, Delta):
                                first_s = self._clock.monotonic_s() if first_s is None else first_s
                                tokens += piece.tokens
        except TimeoutError:
            passed_s = self._rules.trial_within_s if first_s is None else self._clock.monotonic_s() - first_s
            return tokens / passed_s if passed_s > 0 else None
        except ClusterError as error:
            log.info("the speed of %s could not be tried: %s", self._one.model, error.message)
        return None
