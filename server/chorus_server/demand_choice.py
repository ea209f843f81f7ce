"""Which node loads a model that requests wait for: a pure decision over frozen values, with a reason for each node.

The cost of a node is the expected time until the oldest waiter has its answer there, plus what the load takes from
others: a model that has to go costs its reload, each request that uses it or waits for it costs more, and the model
that the node is meant to hold counts double. Only the agent knows its memory to the byte and makes the room; here a
node is refused for its memory only when the model is larger than all of it, or when the agent has just said so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chorus_proto.errors import ClusterError, ErrorCode, LoadFailed, NoReplica, error_of
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.sizing import Estimate

STAY_S = 10.0
"""A model that came for somebody is not displaced before it has been ready for this long, while it is in use: two
models that do not fit together are served in turns, and the loads do not eat up the turns."""

IN_USE_S = 10.0
"""What each request on a model that has to go, or waiting for it, adds to the cost: about the length of an answer."""
ASSIGNED_FACTOR = 2.0
LEAVING_S = 10.0
"""Expected rest of an unload of the same model, after which it can be loaded again."""
TIGHT_S = 60.0
"""Added where by our sum not even displacing everything is enough: the agent is asked only when nobody is better."""

RETRY_AFTER_MEMORY_S = 30.0
RETRY_AFTER_GIVEN_UP_S = 60.0
_NODES_NAMED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a node does not load the model now. `again_in_s`: when it may be asked again, None when nobody knows.

    `words` start with a verb, as what follows the node's name.
    """

    code: ErrorCode
    words: str
    again_in_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """Another model on a node. `movable`: False for what the PC's owner keeps loaded.

    `stays_s`: seconds for which it must not be displaced, 0 when it may go now.
    """

    model: ModelName
    resident_bytes: int
    reload_s: float
    requests: int = 0
    """Running on it or waiting for it."""
    assigned: bool = False
    movable: bool = True
    stays_s: float = 0.0

    @property
    def cost_s(self) -> float:
        cost_s = self.reload_s + IN_USE_S * self.requests
        return cost_s * ASSIGNED_FACTOR if self.assigned else cost_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One node and what loading the model there would mean.

    `needed_bytes` is what the load is expected to take: measured before, else the estimate `needs`. `free_bytes` is
    what is free there now less what others were promised; both it and `total_bytes` are None where unknown.
    """

    node_id: NodeId
    node_name: str
    needs: Estimate
    needed_bytes: int
    load_s: float
    answer_s: float
    total_bytes: int | None = None
    free_bytes: int | None = None
    residents: tuple[Resident, ...] = ()
    leaving: bool = False
    """The model is being unloaded there; it can be ordered again once it is gone."""
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a node offers. `wait_s` > 0: not now; look again after what stands in the way has gone."""

    site: Site
    cost_s: float
    wait_s: float
    displaced: tuple[ModelName, ...]

    @property
    def reason(self) -> str:
        """For people."""
        site = self.site
        words = f"load {site.load_s:.1f} s + answer {site.answer_s:.1f} s"
        if self.wait_s:
            words += f" + wait {self.wait_s:.1f} s"
        if self.displaced:
            words += f", in place of {', '.join(self.displaced)}"
        return f"{words}; cost {self.cost_s:.1f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Every node asked about: those that can, best first, and those that cannot, with the reason."""

    offers: tuple[Offer, ...]
    refused: tuple[tuple[str, Refusal], ...]

    @property
    def best(self) -> Offer | None:
        return self.offers[0] if self.offers else None


def choose(sites: Sequence[Site]) -> Choice:
    """Rank the nodes by cost; ties go to the smallest node id."""
    offers: list[Offer] = []
    refused: list[tuple[str, Refusal]] = []
    for site in sites:
        refusal = site.refusal or _too_large(site)
        if refusal is not None:
            refused.append((site.node_name, refusal))
        else:
            offers.append(_offer(site))
    offers.sort(key=lambda offer: (offer.cost_s, offer.site.node_id))
    return Choice(offers=tuple(offers), refused=tuple(refused))


def _too_large(site: Site) -> Refusal | None:
    if site.total_bytes is None or site.needed_bytes <= site.total_bytes:
        return None
    words = f"{site.needs.in_words()}, and it has {site.total_bytes / 1e9:.1f} GB in all"
    return Refusal(code=ErrorCode.INSUFFICIENT_MEMORY, words=words)


def _offer(site: Site) -> Offer:
    missing = 0 if site.free_bytes is None else site.needed_bytes - site.free_bytes
    displaced: list[Resident] = []
    wait_s = LEAVING_S if site.leaving else 0.0
    movable = [resident for resident in site.residents if resident.movable and resident.resident_bytes > 0]
    # Those that may go now before those that have to stay a while, the cheapest first.
    for resident in sorted(movable, key=lambda one: (one.stays_s, one.cost_s, one.model)):
        if missing <= 0:
            break
        displaced.append(resident)
        missing -= resident.resident_bytes
        wait_s = max(wait_s, resident.stays_s)
    cost_s = wait_s + site.load_s + site.answer_s + sum(resident.cost_s for resident in displaced)
    if missing > 0:
        cost_s += TIGHT_S
    return Offer(site=site, cost_s=cost_s, wait_s=wait_s, displaced=tuple(resident.model for resident in displaced))


def refused_error(
    model: ModelName, refused: Sequence[tuple[str, Refusal]], *, smaller_ready: ModelName | None
) -> ClusterError:
    """What waiters hear when no node can load the model: every node with its reason, and what to use instead.

    InsufficientMemory when that is the reason everywhere, the reason's own error when the others agree on one, else
    LoadFailed; NoReplica when there is no node to speak of.
    """
    if not refused:
        return NoReplica(f"no node that is here has model {model}", retry_after_s=10)
    named = "; ".join(f"{name} {refusal.words}" for name, refusal in refused[:_NODES_NAMED])
    if len(refused) > _NODES_NAMED:
        named += f"; and {len(refused) - _NODES_NAMED} more nodes"
    after = [refusal.again_in_s for _, refusal in refused if refusal.again_in_s is not None]
    codes = {refusal.code for _, refusal in refused}
    if codes == {ErrorCode.INSUFFICIENT_MEMORY}:
        hint = f"; {smaller_ready} is smaller and ready" if smaller_ready is not None else ""
        after_s = min(after, default=RETRY_AFTER_MEMORY_S)
        return error_of(
            ErrorCode.INSUFFICIENT_MEMORY, f"no node has the memory for {model}: {named}{hint}", retry_after_s=after_s
        )
    telling = codes - {ErrorCode.INSUFFICIENT_MEMORY}
    if len(telling) > 1:
        telling -= {ErrorCode.NO_REPLICA}
    text = f"model {model} cannot be loaded: {named}"
    after_s = min(after, default=RETRY_AFTER_GIVEN_UP_S)
    if len(telling) > 1:
        return LoadFailed(text, retry_after_s=after_s)
    return error_of(telling.pop(), text, retry_after_s=after_s)
