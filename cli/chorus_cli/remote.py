"""Short questions to a coordinator that runs somewhere else: connect, ask, one line when it is away."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click

from chorus_cli.address import checked_address
from chorus_cli.options import effective
from chorus_cli.settings import CliSettings
from chorus_cli.trust import known_authority, learn_authority
from chorus_http.grpc_cluster import GrpcCluster
from chorus_proto import logs
from chorus_proto.errors import ClusterError, CoordinatorUnavailable
from chorus_proto.keys import local_key
from chorus_proto.tls.peer import why_not

Answer = TypeVar("Answer")

GIVEN = ("coordinator", "coordinator_ca", "state_dir", "log_level", "answer_within_s")
"""The settings that every question has."""


def dialled(address: str, settings: CliSettings, *, bearer: Callable[[], str] | None = None) -> GrpcCluster:
    """The coordinator at `address`, shown the key of the settings, else what proves to be of this PC.

    `bearer`: what to show where neither is known.
    """
    return GrpcCluster(
        address,
        within_s=settings.answer_within_s,
        key=lambda: settings.api_key or local_key(settings.state_dir, address) or ("" if bearer is None else bearer()),
        ca_pem=lambda: known_authority(address, settings),
    )


def asked(
    question: Callable[[GrpcCluster, CliSettings], Awaitable[Answer]], *, config: Path | None, flags: dict[str, object]
) -> Answer:
    """Run `question` against the coordinator of the settings. Raises SettingsError, and ClickException (exit code 1)
    with the cluster's own words when it refuses or is away."""
    settings = effective(CliSettings, "cli", config=config, flags=flags)
    address = checked_address(settings.coordinator, "--coordinator")
    undo = logs.configure(settings.log_level, stream=sys.stderr, file=None)

    async def inside() -> Answer:
        cluster = dialled(address, settings)
        try:
            return await question(cluster, settings)
        finally:
            await cluster.aclose()

    try:
        learn_authority(address, settings)
        return asyncio.run(inside())
    except CoordinatorUnavailable as error:
        why = why_not(address, known_authority(address, settings), within_s=settings.answer_within_s)
        raise click.ClickException(f"{error.message} {why and f'({why}; see --coordinator-ca)'}".strip()) from None
    except ClusterError as error:
        raise click.ClickException(error.message) from None
    finally:
        undo()
