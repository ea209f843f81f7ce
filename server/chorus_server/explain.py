"""A routing decision in words: who could take a request, in which order, and why the others cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from chorus_proto.explained import Explanation, RankedReplica, RefusedNode
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.values import ReplicaState
from chorus_server.demand import Hopeless
from chorus_server.demand_choice import Choice
from chorus_server.node_record import NodeRecord
from chorus_server.routing import Candidate, Decision
from chorus_server.tickets import Group, Ticket
from chorus_server.worth_waiting import Better


def refused_nodes(
    records: Iterable[NodeRecord],
    group: Group,
    candidates: Sequence[Candidate],
    choice: Choice,
    *,
    rests: Callable[[NodeId, ModelName], str],
) -> tuple[RefusedNode, ...]:
    """Every node that is no candidate. `choice`: where the model could be loaded, and why not elsewhere; `rests`: why
    a node that has it gets no work, "" when it does."""
    able = {one.node_id for one in candidates}
    offers = {offer.site.node_id: offer.reason for offer in choice.offers}
    refusals = {name: refusal.words for name, refusal in choice.refused}
    found: list[RefusedNode] = []
    for record in records:
        if record.node_id not in able:
            reason = _why_not(record, group) or rests(record.node_id, group.model) or None
            if reason is None and record.node_id in offers:
                reason = f"has it on disk and not loaded; {offers[record.node_id]}"
            found.append(
                RefusedNode(
                    node_id=record.node_id,
                    node_name=record.name,
                    reason=reason or refusals.get(record.name) or "has it on disk and not loaded",
                )
            )
    return tuple(found)


def _why_not(record: NodeRecord, group: Group) -> str | None:
    """None where the model only would have to be loaded."""
    model = group.model
    if group.node_id not in (None, record.node_id):
        return "is not the node that was asked for"
    if model not in record.models and model not in record.replicas:
        return "does not have the model"
    if not record.takes_work:
        return f"is {record.state}: nothing is heard from it"
    if record.courtesy.paused:
        return f"makes a {record.courtesy.words}"
    replica = record.replicas.get(model)
    if replica is None:
        return None
    report = replica.report
    match report.state:
        case ReplicaState.LOADING:
            share = "" if report.progress is None else f"{report.progress:.0%}"
            return f"loads it: {', '.join(filter(None, (share, report.detail))) or 'just begun'}"
        case ReplicaState.UNLOADING:
            return "unloads it"
        case ReplicaState.FAILED:
            return f"could not load it: {report.detail or 'it said no reason'}"
        case ReplicaState.READY | ReplicaState.GONE:
            return None


def explanation(
    ticket: Ticket,
    decision: Decision,
    refused: tuple[RefusedNode, ...],
    *,
    digest: str,
    waiting: int,
    better: Better | None,
    expected_wait_s: float | None,
    going_on: str,
    hopeless: Hopeless | None,
) -> Explanation:
    """`better`: what it would wait for rather than take the decision's slot. `going_on` and `hopeless` tell of a model
    that nobody serves: what loads it, or why nothing can."""
    chosen = None if waiting or better else decision.chosen
    return Explanation(
        model=ticket.group.model,
        strategy=decision.strategy,
        priority=ticket.priority,
        verdict=_verdict(decision, chosen, waiting, better, expected_wait_s, going_on, hopeless),
        chosen=None if chosen is None else chosen.node_id,
        model_digest=digest,
        prompt_tokens=ticket.need.prompt_tokens,
        expected_tokens=ticket.need.expected_tokens,
        waiting=waiting,
        expected_wait_s=expected_wait_s,
        ranking=tuple(
            RankedReplica(
                node_id=one.candidate.node_id,
                node_name=one.candidate.node_name,
                slots=one.candidate.slots,
                slots_busy=one.candidate.slots_busy,
                cost_s=one.cost_s,
                reason=one.reason,
            )
            for one in decision.ranking
        ),
        refused=refused,
    )


def _verdict(
    decision: Decision,
    chosen: Candidate | None,
    waiting: int,
    better: Better | None,
    expected_wait_s: float | None,
    going_on: str,
    hopeless: Hopeless | None,
) -> str:
    if chosen is not None:
        return f"{chosen.node_name} would run it at once"
    if better is not None and decision.chosen is not None and not waiting:
        return (
            f"it would wait for about {better.free_in_s:.1f} s for {better.node_name}, which is done sooner than "
            f"{decision.chosen.node_name}, where a slot is free"
        )
    if decision.ranking:
        about = "" if expected_wait_s is None else f" for about {expected_wait_s:.1f} s"
        if waiting or (decision.chosen is None and all(one.cost_s is None for one in decision.ranking)):
            return f"it would wait{about}: every slot is taken or waited for"
        return f"it would wait{about} for a node that has read its beginning already"
    if hopeless is not None:
        return f"it would be refused: {hopeless.error().message}"
    return f"it would wait for the model: {going_on or 'a load would be ordered'}"
