"""`chorus chat`: talk with a model or council in the terminal, or put one question in a script."""

from __future__ import annotations

import sys
from contextlib import aclosing
from pathlib import Path

import click
import msgspec

from chorus_cli.completion import complete_models
from chorus_cli.conversation import Answer, Conversation, Wish
from chorus_cli.options import settings_options
from chorus_cli.remote import GIVEN, asked
from chorus_cli.settings import CliSettings
from chorus_cli.talk import Talk
from chorus_http.chats.asking import Text
from chorus_http.grpc_cluster import GrpcCluster
from chorus_proto.generation import Generation
from chorus_server.console import run_terminal
from chorus_server.console.text import printable


@click.command("chat")
@click.argument("words", nargs=-1, metavar="[PROMPT]")
@click.option("--model", "-m", shell_complete=complete_models, help="Model or council; by default the largest ready.")
@click.option("--system", "-s", default="", help="System prompt.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer, in tokens.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 for the likeliest answer, 2 for variety.")
@click.option("--json", "as_json", is_flag=True, help="With a PROMPT: print the answer and its facts as JSON.")
@settings_options(CliSettings, only=(*GIVEN, "ask_within_s"))
@click.pass_context
def command(
    ctx: click.Context,
    words: tuple[str, ...],
    model: str | None,
    system: str,
    max_tokens: int | None,
    temperature: float | None,
    as_json: bool,
    config: Path | None,
    **flags: object,
) -> None:
    """Talk with a model; /help there lists the commands. With a PROMPT, or one from a pipe: print one answer."""
    prompt = " ".join(words)
    if not prompt.strip() and not sys.stdin.isatty():
        prompt = sys.stdin.read()
        if not prompt.strip():
            raise click.UsageError("nothing to ask: write chorus chat 'YOUR QUESTION'", ctx)
    if as_json and not prompt:
        raise click.UsageError("--json needs a question: chorus chat --json 'YOUR QUESTION'", ctx)

    async def talk(cluster: GrpcCluster, settings: CliSettings) -> None:
        wish = Wish(
            model=model,
            system=system,
            sampling=Generation(max_tokens=max_tokens, temperature=temperature),
            within_s=settings.ask_within_s,
        )
        conversation = Conversation(cluster, wish)
        if prompt:
            await _one_answer(conversation, prompt, as_json=as_json)
            return
        name, _ = await conversation.chosen()
        print(f"talking with {printable(name)}; /help lists the commands, /bye leaves")
        await run_terminal(
            lambda read_line, write, screen: Talk(conversation, cluster, read_line, write, screen=screen)
        )

    asked(talk, config=config, flags=flags)


async def _one_answer(conversation: Conversation, prompt: str, *, as_json: bool) -> None:
    """Stream it to standard output, or print it whole as JSON. Raises ClusterError."""
    model, context_tokens = await conversation.chosen()
    answer = Answer(model=model)
    conversation.ask(prompt)
    async with aclosing(conversation.answer(answer, context_tokens)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Text) and not as_json:
                print(printable(piece.text), end="", flush=True)
    if as_json:
        print(msgspec.json.encode(answer_fields(answer)).decode())
    else:
        print()


def answer_fields(answer: Answer) -> dict[str, object]:
    """Of `--json`."""
    return {
        "text": answer.text,
        "model": answer.model,
        "node": answer.node or None,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "seconds": round(answer.seconds, 4),
        "first_text_seconds": None if answer.first_s is None else round(answer.first_s, 4),
        "tokens_per_s": answer.tokens_per_s,
        "trimmed_messages": 0 if answer.trimmed is None else answer.trimmed.dropped_messages,
        "council": answer.council,
    }
