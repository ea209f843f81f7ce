"""The cluster's models as people and programs see them: every file that some node has, under all its names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from chorus_proto.catalogue import shape_of, tier_of
from chorus_proto.values import ModelFile, ModelSummary, ReplicaState
from chorus_server.aliases import Aliases
from chorus_server.node_record import NodeRecord
from chorus_server.registry import Registry


def models_shown(registry: Registry, aliases: Aliases) -> Iterable[ModelSummary]:
    """By name; those that are further names of a model come last."""
    present = registry.present()
    files = {file.name: file for record in present for file in record.models.values()}
    held = {name: _summary(file, present) for name, file in sorted(files.items())}
    yield from held.values()
    for name, model in aliases.all():
        if model in held and name not in held:
            yield replace(held[model], name=name, alias_of=model)


def _summary(file: ModelFile, present: list[NodeRecord]) -> ModelSummary:
    name = file.name
    ready = [
        record
        for record in present
        if name in record.replicas and record.replicas[name].report.state is ReplicaState.READY
    ]
    shape = shape_of(file)
    return ModelSummary(
        name=name,
        tier=None if file.embedding else tier_of(file),
        file_bytes=file.file_bytes,
        parameters=0 if shape is None else shape.parameters,
        ready_on=tuple(record.node_id for record in ready),
        on_disk_at=tuple(record.node_id for record in present if name in record.models),
        digest=file.digest,
        context_tokens=max((record.replicas[name].report.context_tokens for record in ready), default=0),
        embedding=file.embedding,
    )
