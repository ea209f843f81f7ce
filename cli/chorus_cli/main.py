"""The `chorus` command: finds the subcommand, and turns every refusal into one line and an exit code.

Exit codes: 0 clean, 2 usage or configuration (the line names the fix), 1 otherwise. Subcommands are imported when they
are called, so that `chorus --help` loads neither gRPC nor a web server.
"""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import cast

import click

from chorus_proto import __version__
from chorus_proto.settings import SettingsError

# Children are started by exec, which needs none of gRPC's fork handlers; they would only complain on the terminal.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
# What gRPC's core would write to stderr comes as an exception too, and is told in our own words.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

COMMANDS = {
    "up": "Start everything on this PC: coordinator, HTTP address and one agent.",
    "coordinator": "Start the coordinator alone; agents and wrappers dial it.",
    "http": "Start an HTTP address for a coordinator that runs elsewhere.",
    "agent": "Let this PC compute for a coordinator.",
    "console": "Ask all PCs from this terminal.",
    "status": "Show the cluster in a few lines.",
    "nodes": "Show the PCs, their scores and what they hold.",
    "models": "Show the models and where they are; pull and copy them.",
    "chat": "Talk with a model or a council in this terminal.",
    "ask": "Ask one question; print every PC's answer and the aggregate.",
    "top": "Watch the PCs, what they hold and what they do, live.",
    "rag": "Answer questions from documents: add files and folders, search, ask.",
    "queue": "Show who waits for a slot and who has one.",
    "route": "Say where a request would run, and why.",
    "server": "Start, stop and switch between the llama-servers of this PC.",
    "backends": "Show, register and unregister servers without an agent.",
    "keys": "Make, list and revoke API keys.",
    "join-token": "Make, list and revoke the tokens that admit PCs.",
    "members": "Show the PCs that joined with a token; cut one off.",
    "config": "Show the settings in force and where each came from.",
    "completion": "Print the script with which a shell completes names.",
}
"""Name -> one line of help. The code of `x-y` is the click command `command` in `chorus_cli.commands.x_y`."""


class _LateCommands(click.Group):
    """Imports a command when it runs, not when it is listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: object = importlib.import_module(f"chorus_cli.commands.{cmd_name.replace('-', '_')}").command
        if not isinstance(command, click.Command):
            raise TypeError(f"chorus_cli.commands.{cmd_name}.command is not a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        close = difflib.get_close_matches(args[0], COMMANDS, n=1) if args and args[0] not in COMMANDS else []
        if close:
            raise click.UsageError(f"there is no command {args[0]!r}; did you mean {close[0]!r}?", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_LateCommands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="Chorus %(version)s")
def chorus() -> None:
    """Turns the PCs on a LAN into one local-LLM service."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    _print_whatever_comes()
    try:
        code: object = chorus.main(args=None if argv is None else list(argv), prog_name="chorus", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.UsageError as error:
        where = "chorus" if error.ctx is None else error.ctx.command_path
        return _refused(2, f"{error.format_message().rstrip('.')}; see: {where} --help")
    except click.ClickException as error:
        return _refused(error.exit_code, error.format_message())
    except SettingsError as error:
        return _refused(2, str(error))
    except (click.Abort, KeyboardInterrupt):
        return 1
    except BrokenPipeError:
        # Who read our output (`chorus nodes | head`) has gone; a flush at exit must not complain about it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


def _print_whatever_comes() -> None:
    """A character that the output's encoding lacks becomes `?`: on Windows a redirected output has that of the country,
    and an answer must not end at the first arrow in it."""
    # None without a console (pythonw); what took its place may be no file of text.
    output = cast("object", sys.stdout)
    if isinstance(output, io.TextIOWrapper):
        text = cast("io.TextIOWrapper", output)
        if text.errors == "strict":
            text.reconfigure(errors="replace")


def _refused(code: int, message: str) -> int:
    """One line, whatever the message holds."""
    click.echo(f"chorus: {' '.join(message.split())}", err=True)
    return code
