"""Load on demand: a model that somebody waits for and that no node serves is loaded where it is expected soonest.

Level-triggered: every look compares who waits with what is there, loads or was ordered, so that a lost order, a dead
node or an unload in between needs no case of its own. A load ordered here is a warm copy, which its agent frees after
`keep_alive_s` without a use; the model that a node is assigned stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from chorus_proto.clock import Clock
from chorus_proto.errors import ClusterError, ErrorCode
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import NodeState, ReplicaState
from chorus_server.demand_choice import Choice, Offer, Refusal, choose, refused_error
from chorus_server.demand_sites import Sites
from chorus_server.events import LoadDemanded
from chorus_server.loads import Loads
from chorus_server.registry import NodeRecord, Registry
from chorus_server.routing import Need

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """Requests that wait for the same: a slot of `model`, maybe on one node, on none of the `excluded` incarnations.

    `need` is the oldest request's, `waiting` their number.
    """

    model: ModelName
    need: Need
    node_id: NodeId | None = None
    excluded: frozenset[int] = frozenset()
    waiting: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Hopeless:
    """Nobody can serve this want. `nobody_is_there`: no node that is here refused it; one that left may come back."""

    model: ModelName
    refused: tuple[tuple[str, Refusal], ...]
    smaller_ready: ModelName | None
    nobody_is_there: bool

    def error(self) -> ClusterError:
        """A new one for each waiter: an exception that is raised twice collects both tracebacks."""
        return refused_error(self.model, self.refused, smaller_ready=self.smaller_ready)


class Demand:
    """Orders loads for those who wait. `tell` hears of each order."""

    def __init__(
        self,
        registry: Registry,
        loads: Loads,
        clock: Clock,
        tell: Callable[[LoadDemanded], None],
        *,
        keep_alive_s: float,
        back_within_s: float,
    ) -> None:
        """`back_within_s`: a node heard of within this time is expected back before another one loads its model."""
        self._registry = registry
        self._loads = loads
        self._sites = Sites(loads, clock)
        self._clock = clock
        self._tell = tell
        self._keep_alive_s = keep_alive_s
        self._back_within_s = back_within_s

    def is_coming(self, want: Want) -> bool:
        """True when a replica that may serve the want is there, on its way or about to be ordered by the placement."""
        return any(self._comes_from(record, want) for record in self._matching(want))

    def step(self, wants: Sequence[Want]) -> list[Hopeless | None]:
        """Order what is missing; for each want, why it cannot be served, or None while it may be."""
        requests: dict[ModelName, int] = {}
        for want in wants:
            requests[want.model] = requests.get(want.model, 0) + want.waiting
        found: dict[int, Hopeless | None] = {}
        # Who is bound to a node goes first: others can use what is loaded there, but not the other way round.
        for place, want in sorted(enumerate(wants), key=lambda entry: entry[1].node_id is None):
            found[place] = self._attend(want, requests)
        return [found[place] for place in range(len(wants))]

    def _attend(self, want: Want, requests: Mapping[ModelName, int]) -> Hopeless | None:
        if self.is_coming(want):
            return None
        choice = self.choice(want, requests)
        if choice.best is not None:
            if not choice.best.wait_s:
                self._order(want, choice.best)
            return None
        return self._hopeless(want, choice)

    def _order(self, want: Want, offer: Offer) -> None:
        record = self._registry.find(offer.site.node_id)
        keep_alive_s = None if record.assigned == want.model else self._keep_alive_s
        log.info("node %s loads %s for %d waiting: %s", record.name, want.model, want.waiting, offer.reason)
        self._loads.order(record, want.model, keep_alive_s=keep_alive_s)
        self._tell(
            LoadDemanded(
                node_id=record.node_id,
                node_name=record.name,
                model=want.model,
                waiting=want.waiting,
                reason=offer.reason,
            )
        )

    def hopeless(self, want: Want) -> Hopeless | None:
        """Why the want cannot be served now, None when it can be or a load may be ordered; orders nothing."""
        if self.is_coming(want):
            return None
        choice = self.choice(want, {})
        return None if choice.best is not None else self._hopeless(want, choice)

    def _hopeless(self, want: Want, choice: Choice) -> Hopeless | None:
        if any(not record.takes_work and self._has(record, want.model) for record in self._present(want)):
            # It is not dead yet: its lease decides, and then this is looked at again.
            return None
        refused = choice.refused
        bound = None if want.node_id is None else next(iter(self._matching(want)), None)
        if not refused and bound is not None:
            what = (
                "is dead: nothing is heard from it" if bound.state is NodeState.DEAD else f"does not have {want.model}"
            )
            refused = ((bound.name, Refusal(code=ErrorCode.NO_REPLICA, words=what)),)
        return Hopeless(
            model=want.model,
            refused=refused,
            smaller_ready=self._smaller_ready(want.model),
            nobody_is_there=not choice.refused,
        )

    def progress_words(self, want: Want) -> str:
        """What goes on for this want, for people: `attic loads it: 40 %, reading weights`; "" when nothing loads."""
        words: list[str] = []
        for record in self._matching(want):
            replica = record.replicas.get(want.model)
            if replica is not None and replica.report.state is ReplicaState.LOADING:
                report = replica.report
                share = "" if report.progress is None else f"{report.progress:.0%}"
                words.append(
                    f"{record.name} loads it: {', '.join(filter(None, (share, report.detail))) or 'just begun'}"
                )
            elif replica is not None and replica.report.state is ReplicaState.UNLOADING:
                words.append(f"{record.name} unloads it, to load it again")
            elif self._loads.pending(record, want.model):
                words.append(f"{record.name} was told to load it and has not begun")
        if not words and not self.is_coming(want):
            best = self.choice(want, {}).best
            if best is not None and best.displaced:
                words.append(f"{best.site.node_name} has no room for it beside {', '.join(best.displaced)}, now in use")
        return "; ".join(words)

    # Facts --------------------------------------------------------------------------------------------------------

    def _matching(self, want: Want) -> Iterable[NodeRecord]:
        return (one for one in self._registry.records() if want.node_id in (None, one.node_id))

    def _present(self, want: Want) -> Iterable[NodeRecord]:
        return (one for one in self._matching(want) if one.state is not NodeState.DEAD)

    @staticmethod
    def _has(record: NodeRecord, model: ModelName) -> bool:
        return model in record.models or model in record.replicas

    def _comes_from(self, record: NodeRecord, want: Want) -> bool:
        replica = record.replicas.get(want.model)
        state = None if replica is None else replica.report.state
        under_way = state is ReplicaState.LOADING or self._loads.pending(record, want.model)
        if not record.takes_work:
            # A dead node is not waited for, one that was heard of just now is: most come back at once.
            away_s = self._clock.monotonic_s() - record.beat_at_s
            was_serving = under_way or state is ReplicaState.READY or record.assigned == want.model
            return record.state is not NodeState.DEAD and away_s < self._back_within_s and was_serving
        if replica is not None and state is ReplicaState.READY:
            return replica.incarnation not in want.excluded
        # What is assigned and neither loaded, refused nor held back is about to be ordered by the reconciler.
        due = record.assigned == want.model and state is None and not record.waits_for_callers(want.model)
        return under_way or due

    def choice(self, want: Want, requests: Mapping[ModelName, int]) -> Choice:
        """Where to load, and why not elsewhere. `requests` counts by model who waits, this want included."""
        able = [record for record in self._matching(want) if record.takes_work and want.model in record.models]
        return choose([self._sites.site(record, want.model, want.need, requests) for record in able])

    def _smaller_ready(self, model: ModelName) -> ModelName | None:
        """The largest chat model that is ready somewhere and smaller than this one."""
        files = [file for record in self._registry.present() if (file := record.models.get(model)) is not None]
        limit = max((file.file_bytes for file in files), default=0)
        ready = {
            file.name: file.file_bytes
            for record in self._registry.present()
            for name, replica in record.replicas.items()
            if replica.report.state is ReplicaState.READY and (file := record.models.get(name)) is not None
            if not file.embedding and file.file_bytes < limit
        }
        return max(ready, key=lambda name: (ready[name], name), default=None)
