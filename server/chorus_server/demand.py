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
from chorus_proto.load_time import load_left_s, seconds_in_words
from chorus_proto.values import ReplicaState
from chorus_server.demand_choice import Choice, Offer, Refusal, choose, refused_error
from chorus_server.demand_copies import DemandCopies
from chorus_server.demand_sites import Sites, whole_load_s
from chorus_server.events import LoadDemanded
from chorus_server.loads import Loads
from chorus_server.node_record import NodeRecord, ReplicaRecord
from chorus_server.registry import Registry
from chorus_server.routing import Need
from chorus_server.wake import Wakings

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
    digest: str | None = None
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
        wakings: Wakings,
        copies: DemandCopies,
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
        self._wakings = wakings
        self._copies = copies
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
        if self._wakings.call_one(self._sleepers(want)):
            return None
        if want.node_id is None and self._copies.begin(want.model, choice.refused):
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
        if any(not record.takes_requests and self._has(record, want.model) for record in self._present(want)):
            # It is not dead yet, or its owner has it for now: this is looked at again.
            return None
        sleepers = list(self._sleepers(want))
        if any(self._wakings.may_come(record) for record in sleepers):
            return None
        if want.node_id is None and self._copies.could(want.model, choice.refused):
            return None
        refused = choice.refused + tuple(self._no_longer_offered(want))
        refused += tuple((record.name, self._wakings.refusal(record)) for record in sleepers)
        if want.node_id is None:
            refused += tuple(self._copies.refusals(want.model))
        bound = None if want.node_id is None else next(iter(self._matching(want)), None)
        if not refused and bound is not None:
            what = (
                f"does not have {want.model}" if bound.state.is_here else f"is {bound.state}: nothing is heard from it"
            )
            refused = ((bound.name, Refusal(code=ErrorCode.NO_REPLICA, words=what)),)
        return Hopeless(
            model=want.model,
            refused=refused,
            smaller_ready=self._smaller_ready(want.model),
            nobody_is_there=not choice.refused,
        )

    def _no_longer_offered(self, want: Want) -> Iterable[tuple[str, Refusal]]:
        """Nodes that took the model off their list when its load failed: a damaged file is not announced any more."""
        for record in self._present(want):
            if want.model not in record.models:
                refusal = self._loads.refusal(record, want.model)
                if refusal is not None:
                    yield record.name, refusal

    def progress_words(self, want: Want) -> str:
        """What goes on for this want, for people: `attic loads it: 40 %, reading weights`; "" when nothing loads."""
        words: list[str] = []
        for record in self._matching(want):
            replica = record.replicas.get(want.model)
            if record.takes_work and record.courtesy.paused and self._has(record, want.model):
                words.append(f"{record.name} makes a {record.courtesy.words}")
            elif replica is not None and replica.report.state is ReplicaState.LOADING:
                report = replica.report
                share = "" if report.progress is None else f"{report.progress:.0%}"
                left = f"about {seconds_in_words(_left_s(record, replica))} left"
                words.append(f"{record.name} loads it: {', '.join(filter(None, (share, report.detail, left)))}")
            elif replica is not None and replica.report.state is ReplicaState.UNLOADING:
                words.append(f"{record.name} unloads it, to load it again")
            elif self._loads.pending(record, want.model):
                words.append(f"{record.name} was told to load it and has not begun")
        if want.node_id is None:
            words += self._copies.words(want.model)
        words += filter(None, (self._wakings.words(record) for record in self._sleepers(want)))
        if not words and not self.is_coming(want):
            best = self.choice(want, {}).best
            if best is not None and best.displaced:
                words.append(f"{best.site.node_name} has no room for it beside {', '.join(best.displaced)}, now in use")
        return "; ".join(words)

    def expected_s(self, want: Want) -> float | None:
        """Seconds until a load that is under way for this want is done; None when none is."""
        left: list[float] = []
        for record in self._matching(want):
            replica = record.replicas.get(want.model)
            if replica is not None and replica.report.state is ReplicaState.LOADING:
                left.append(_left_s(record, replica))
            elif self._loads.pending(record, want.model):
                left.append(whole_load_s(record, want.model))
        return min(left, default=None)

    # Facts --------------------------------------------------------------------------------------------------------

    def _matching(self, want: Want) -> Iterable[NodeRecord]:
        return (
            one
            for one in self._registry.records()
            if want.node_id in (None, one.node_id) and want.digest in (None, one.digest_of(want.model))
        )

    def _present(self, want: Want) -> Iterable[NodeRecord]:
        return (one for one in self._matching(want) if one.state.is_here)

    def _sleepers(self, want: Want) -> Iterable[NodeRecord]:
        return (one for one in self._matching(want) if self._wakings.could(one) and self._has(one, want.model))

    def within_reach(self) -> list[NodeRecord]:
        """Nodes that are here, and those that could be woken: what is on their disks can be asked for."""
        return [one for one in self._registry.records() if one.state.is_here or self._wakings.could(one)]

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
            return record.state.is_here and away_s < self._back_within_s and was_serving
        if record.courtesy.paused:
            # Somebody else may load it; when nobody can, the want waits for the end of the pause.
            return False
        if replica is not None and state is ReplicaState.READY:
            return replica.incarnation not in want.excluded
        # What is assigned and neither loaded, refused nor held back is about to be ordered by the reconciler.
        due = record.assigned == want.model and state is None and not record.waits_for_callers(want.model)
        return under_way or due

    def choice(self, want: Want, requests: Mapping[ModelName, int]) -> Choice:
        """Where to load, and why not elsewhere. `requests` counts by model who waits, this want included."""
        able = [record for record in self._matching(want) if record.takes_requests and want.model in record.models]
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


def _left_s(record: NodeRecord, replica: ReplicaRecord) -> float:
    return load_left_s(whole_load_s(record, replica.report.model), replica.report.progress)
