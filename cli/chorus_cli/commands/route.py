"""`chorus route explain`: where a request would go, and why."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from chorus_cli.options import settings_options
from chorus_cli.remote import GIVEN, asked
from chorus_cli.settings import CliSettings
from chorus_cli.tables import print_table
from chorus_http.grpc_cluster import GrpcCluster
from chorus_proto.cluster import Call
from chorus_proto.dialects.parsed import check_model_name, text_bytes, tokens_estimate
from chorus_proto.errors import InvalidRequest
from chorus_proto.explained import Explanation
from chorus_proto.generation import Generation, Message
from chorus_proto.ids import ModelName, new_request_id
from chorus_proto.logs import escaped
from chorus_proto.values import ClusterState, Dialect, Priority, RoutingStrategy

RANKING_HEADINGS = ("RANK", "NODE", "BUSY", "COST", "WHY")
REFUSED_HEADINGS = ("NODE", "WHY NOT")
_WITHIN_S = 1800.0


@click.group("route")
def command() -> None:
    """Look into the choice of PCs for requests."""


@command.command("explain")
@click.argument("prompt")
@click.option("--model", help="Model of the request; by default the only one that is ready.")
@click.option("--node", help="Only this PC, by name or id.")
@click.option("--strategy", type=click.Choice([one.value for one in RoutingStrategy]), help="Instead of the setting.")
@click.option("--priority", type=click.Choice([one.value for one in Priority]), default="interactive")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer, in tokens.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole explanation, as JSON.")
@settings_options(CliSettings, only=GIVEN)
def explain(
    prompt: str,
    model: str | None,
    node: str | None,
    strategy: str | None,
    priority: str,
    max_tokens: int | None,
    as_json: bool,
    config: Path | None,
    **flags: object,
) -> None:
    """Say where a request with PROMPT would run now and why, and why not elsewhere. Nothing is run."""

    async def question(cluster: GrpcCluster, _settings: CliSettings) -> Explanation:
        wanted = check_model_name(model) if model else only_model(await cluster.state())
        generation = Generation(messages=(Message(role="user", content=prompt),), max_tokens=max_tokens)
        return await cluster.explain(
            Call(
                request_id=new_request_id(),
                model=wanted,
                dialect=Dialect.TEXT,
                stream=False,
                generation=generation.encoded(),
                prompt_tokens_estimate=tokens_estimate(text_bytes(prompt)),
                within_s=_WITHIN_S,
                max_tokens=max_tokens,
                node=node,
                strategy=None if strategy is None else RoutingStrategy(strategy),
                priority=Priority(priority),
            )
        )

    found = asked(question, config=config, flags=flags)
    if as_json:
        print(msgspec.json.encode(found).decode())
        return
    print(escaped(f"{found.model}, {found.strategy}, {found.priority}: {found.verdict}"))
    print(f"prompt about {found.prompt_tokens} tokens, answer expected {found.expected_tokens}")
    for headings, rows in ((RANKING_HEADINGS, ranking_rows(found)), (REFUSED_HEADINGS, refused_rows(found))):
        if rows:
            print()
            print_table(headings, rows)


def only_model(state: ClusterState) -> ModelName:
    """The one chat model that is ready. Raises InvalidRequest when there is not exactly one."""
    ready = [one.name for one in state.models if one.ready_on and not one.embedding]
    if len(ready) == 1:
        return ready[0]
    names = ", ".join(ready) or "none is ready"
    raise InvalidRequest(f"say which model, with --model: {names}")


def ranking_rows(found: Explanation) -> list[tuple[str, ...]]:
    """One row a replica under `RANKING_HEADINGS`."""
    return [
        (
            f"{place}{' <-' if one.node_id == found.chosen else ''}",
            one.node_name,
            f"{one.slots_busy}/{one.slots}",
            "" if one.cost_s is None else f"{one.cost_s:.2f} s",
            one.reason,
        )
        for place, one in enumerate(found.ranking, 1)
    ]


def refused_rows(found: Explanation) -> list[tuple[str, ...]]:
    """One row a node under `REFUSED_HEADINGS`."""
    return [(one.node_name, one.reason) for one in found.refused]
