"""Which model each PC should hold: a pure decision over frozen values, with the reason in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from chorus_proto.catalogue import covers, shape_of, tier_of
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.sizing import Estimate, LoadShape, estimate
from chorus_proto.values import Assignment, Hardware, ModelFile, Tier
from chorus_server.scoring import usable_bytes


class PlacementStrategy(StrEnum):
    TIER = "tier"
    """The largest model that fits among those whose tier the score allows."""
    LARGEST_THAT_FITS = "largest_that_fits"
    """The largest model that fits, however slow it will be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRules:
    """What the site's owner decides. Scores from `large_from` may hold large models, from `medium_from` medium ones."""

    strategy: PlacementStrategy = PlacementStrategy.TIER
    large_from: float = 80.0
    medium_from: float = 60.0
    context_tokens: int = 4096
    slots: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementNode:
    """What placement knows of one PC. `free_bytes`: memory free there now, what Chorus's own models hold included."""

    node_id: NodeId
    name: str
    hardware: Hardware
    score: float
    models: tuple[ModelFile, ...]
    current_model: ModelName | None = None
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    file: ModelFile
    tier: Tier
    parameters: int
    needs: Estimate


def allowed_tier(score: float, rules: PlacementRules) -> Tier:
    """The largest tier that a PC of this score may hold."""
    if score >= rules.large_from:
        return Tier.LARGE
    return Tier.MEDIUM if score >= rules.medium_from else Tier.SMALL


def assign(nodes: Sequence[PlacementNode], rules: PlacementRules) -> list[Assignment]:
    """One assignment for each node, in the order given. A node for which no model will do gets None and the reason."""
    return [_assign_one(node, rules) for node in nodes]


def _assign_one(node: PlacementNode, rules: PlacementRules) -> Assignment:
    usable, device = usable_bytes(node.hardware)
    if node.free_bytes is not None:
        usable = min(usable, node.free_bytes)
    load = LoadShape(context_tokens=rules.context_tokens, slots=rules.slots)
    candidates: list[_Candidate] = []
    for file in node.models:
        if file.embedding or file.owners:
            continue
        shape = shape_of(file)
        candidates.append(
            _Candidate(
                file=file,
                tier=tier_of(file),
                parameters=shape.parameters if shape is not None else 0,
                needs=estimate(shape, file.file_bytes, load, device, file.engine),
            )
        )
    model, reason = _choose(node, candidates, usable, rules)
    return Assignment(
        node_id=node.node_id, node_name=node.name, model=model, previous_model=node.current_model, reason=reason
    )


def _choose(
    node: PlacementNode, candidates: Sequence[_Candidate], usable: int, rules: PlacementRules
) -> tuple[ModelName | None, str]:
    if not candidates:
        return None, "No model: this PC has no chat model on its disk and none in a running engine."
    allowed = allowed_tier(node.score, rules)
    by_tier = rules.strategy is PlacementStrategy.TIER
    permitted = [found for found in candidates if not by_tier or covers(allowed, found.tier)]
    if not permitted:
        smallest = min(candidates, key=lambda found: (found.parameters, found.file.file_bytes, found.file.name))
        wanted_score = rules.large_from if smallest.tier is Tier.LARGE else rules.medium_from
        return None, (
            f"No model: score {node.score:.1f} allows {allowed}, and the smallest here, {smallest.file.name}, is"
            f" {smallest.tier} (from score {wanted_score:g})."
        )
    fitting = [found for found in permitted if found.needs.total_bytes <= usable]
    if not fitting:
        least = min(permitted, key=lambda found: (found.needs.total_bytes, found.file.name))
        return None, f"No model fits: {least.file.name} {least.needs.in_words(usable)}."
    best = min(fitting, key=lambda found: _preference(found, node.current_model))
    return best.file.name, _reason(node, best, permitted, candidates, usable, allowed, rules)


def _preference(found: _Candidate, current: ModelName | None) -> tuple[int, int, int, int, str, str]:
    """Smallest first: larger tiers, then more parameters, then the model that is already there, then larger files.

    A finer quantised copy of the model that is already there is no reason to load again.
    """
    tier_rank = (Tier.LARGE, Tier.MEDIUM, Tier.SMALL).index(found.tier)
    kept = 0 if found.file.name == current else 1
    return tier_rank, -found.parameters, kept, -found.file.file_bytes, found.file.name, found.file.engine


def _reason(
    node: PlacementNode,
    best: _Candidate,
    permitted: Sequence[_Candidate],
    candidates: Sequence[_Candidate],
    usable: int,
    allowed: Tier,
    rules: PlacementRules,
) -> str:
    if rules.strategy is PlacementStrategy.TIER:
        words = [f"Score {node.score:.1f} allows {allowed} models"]
    else:
        words = ["The largest model that fits"]
    if best.needs.total_bytes == 0:
        words.append(f"{best.file.name} runs elsewhere and needs no memory here")
    else:
        words.append(f"{best.file.name} {best.needs.in_words(usable)}")
    key = _preference(best, None)
    refused = [found for found in permitted if _preference(found, None) < key and found.needs.total_bytes > usable]
    if refused:
        next_up = max(refused, key=lambda found: _preference(found, None))
        words.append(f"{next_up.file.name} does not fit ({next_up.needs.in_words()})")
    above = [found for found in candidates if found not in permitted]
    if above:
        largest = min(above, key=lambda found: _preference(found, None))
        words.append(f"{largest.file.name} is {largest.tier}, above this score")
    return "; ".join(words) + "."
