"""Names of models and PCs for a shell's completion: asked of the coordinator, and nothing when it is slow or away."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace

import click

from chorus_cli.remote import dialled
from chorus_cli.settings import FAMILY, CliSettings
from chorus_proto.errors import ClusterError
from chorus_proto.settings import SettingsError, load
from chorus_proto.values import ClusterState

WITHIN_S = 1.0
"""Somebody has pressed a key and waits."""


def complete_models(ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Models and councils."""
    state = _state(ctx)
    if state is None:
        return []
    names = [*(model.name for model in state.models if not model.embedding), *(one.name for one in state.councils)]
    return sorted(name for name in names if name.startswith(begun.lower()))


def complete_nodes(ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """PCs by name."""
    state = _state(ctx)
    return [] if state is None else sorted(node.name for node in state.nodes if node.name.startswith(begun))


def _state(ctx: click.Context) -> ClusterState | None:
    """Whatever fails, a completion must not print."""
    given = {name: ctx.params.get(name) for name in ("coordinator", "state_dir")}

    async def inside(settings: CliSettings) -> ClusterState:
        cluster = dialled(settings.coordinator, replace(settings, answer_within_s=WITHIN_S))
        try:
            return await cluster.state()
        finally:
            await cluster.aclose()

    with contextlib.suppress(ClusterError, SettingsError, OSError, ValueError):
        loaded = load(
            CliSettings,
            section="cli",
            file=None,
            environ=os.environ,
            flags={name: value for name, value in given.items() if value is not None},
            family=FAMILY,
        )
        return asyncio.run(asyncio.wait_for(inside(loaded.values), 2 * WITHIN_S))
    return None
