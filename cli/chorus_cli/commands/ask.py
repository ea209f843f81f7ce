"""`chorus ask`: one question to several PCs, every answer and the aggregate."""

from __future__ import annotations

import sys
from contextlib import aclosing
from pathlib import Path
from typing import cast

import click
import msgspec

from chorus_cli.completion import complete_models
from chorus_cli.options import settings_options
from chorus_cli.remote import GIVEN, asked
from chorus_cli.settings import CliSettings
from chorus_http.grpc_cluster import GrpcCluster
from chorus_proto.cluster import AskFinished, MemberAnswer
from chorus_proto.dialects.query_request import parse_query
from chorus_proto.errors import InternalError
from chorus_proto.ids import COUNCIL_PREFIX, new_request_id
from chorus_proto.logs import escaped
from chorus_proto.values import AggregateStrategy
from chorus_server.console.text import printable

_AFTER = "chorus.ask.after_dashes"


class _WordsAfterDashes(click.Command):
    """Keeps what stands behind `--` apart, where click would only drop the dashes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta[_AFTER] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)


@click.command("ask", cls=_WordsAfterDashes, options_metavar="[OPTIONS]")
@click.argument("words", nargs=-1, metavar="PROMPT | [NODE]... -- PROMPT")
@click.option("--strategy", type=click.Choice([one.value for one in AggregateStrategy]), help="How to aggregate.")
@click.option("--model", shell_complete=complete_models, help="Ask only the PCs that hold this model.")
@click.option("--council", help="Ask this council instead, as it is defined: all, or a name from the configuration.")
@click.option("--max-tokens", type=int, help="Longest answer, in tokens.")
@click.option("--temperature", type=float, help="0 for the likeliest answer, up to 2 for variety.")
@click.option("--json", "as_json", is_flag=True, help="Print answers and aggregate as one JSON object.")
@settings_options(CliSettings, only=(*GIVEN, "ask_within_s"))
@click.pass_context
def command(
    ctx: click.Context,
    words: tuple[str, ...],
    strategy: str | None,
    model: str | None,
    council: str | None,
    max_tokens: int | None,
    temperature: float | None,
    as_json: bool,
    config: Path | None,
    **flags: object,
) -> None:
    """Ask one question; print every PC's answer and the aggregate. Without a prompt it is read from standard input."""
    after = cast("list[str] | None", ctx.meta.get(_AFTER))
    nodes, prompt = ((), " ".join(words)) if after is None else (words, " ".join(after))
    if not prompt.strip():
        if sys.stdin.isatty():
            raise click.UsageError("nothing to ask: write chorus ask 'YOUR QUESTION'", ctx)
        prompt = sys.stdin.read()
    if council is not None and (nodes or model is not None or strategy is not None):
        raise click.UsageError("a council says who is asked and how; name no PCs, --model or --strategy with it", ctx)
    given = {
        "prompt": prompt,
        "nodes": list(nodes) or None,
        "strategy": strategy,
        "model": model if council is None else COUNCIL_PREFIX + council.removeprefix(COUNCIL_PREFIX),
        "max_tokens": max_tokens,
        "temperature": temperature,
    }
    body = msgspec.json.encode({name: value for name, value in given.items() if value is not None})

    async def question(cluster: GrpcCluster, settings: CliSettings) -> AskFinished:
        # The same words as POST /query, so the same checks.
        ask = parse_query(body, request_id=new_request_id(), within_s=settings.ask_within_s).ask
        async with aclosing(cluster.ask(ask)) as events:
            async for event in events:
                if isinstance(event, MemberAnswer) and not as_json:
                    print_member(event)
                if isinstance(event, AskFinished):
                    return event
        raise InternalError("the answer ended without its closing event")

    finished = asked(question, config=config, flags=flags)
    if as_json:
        print(msgspec.json.encode(reply_fields(finished)).decode())
    else:
        print_aggregate(finished)


def print_member(answer: MemberAnswer) -> None:
    """`--- attic-pc (demo-small): 1.2 s, 85 tokens/s`, then what it said or why it did not."""
    speed = "" if answer.tokens_per_s is None else f", {answer.tokens_per_s:.0f} tokens/s"
    print(escaped(f"--- {answer.node_name} ({answer.model}): {answer.seconds:.2f} s{speed}"))
    if answer.error is None:
        print(printable(answer.text), flush=True)
    elif answer.text:
        print(printable(f"too late to count ({answer.error.message}): {answer.text}"), flush=True)
    else:
        print(printable(f"no answer: {answer.error.message}"), flush=True)


def print_aggregate(finished: AskFinished) -> None:
    """The one answer, with how many stand behind it."""
    answered = sum(member.error is None for member in finished.members)
    print(
        f"=== {finished.strategy}: {answered} of {len(finished.members)} answered in {finished.seconds:.2f} s, "
        f"{finished.agreement:.0%} agree"
    )
    print(printable(finished.text))


def reply_fields(finished: AskFinished) -> dict[str, object]:
    """Of `--json`: a shape for programs, with fewer fields than the answer of POST /query."""
    return {
        "text": finished.text,
        "strategy": finished.strategy,
        "seconds": finished.seconds,
        "agreement": finished.agreement,
        "members": [
            {
                "node": member.node_name,
                "node_id": member.node_id,
                "model": member.model,
                "text": member.text,
                "seconds": member.seconds,
                "tokens_per_s": member.tokens_per_s,
                "finish_reason": member.finish_reason,
                "usage": member.usage,
                "error": None if member.error is None else {"code": member.error.code, "message": member.error.message},
            }
            for member in finished.members
        ],
    }
