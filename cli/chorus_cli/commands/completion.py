"""`chorus completion`: the script with which a shell completes commands, options, models and PCs."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")
HOW = {
    "bash": 'eval "$(chorus completion bash)"    # in ~/.bashrc',
    "zsh": 'eval "$(chorus completion zsh)"    # in ~/.zshrc, after compinit',
    "fish": "chorus completion fish > ~/.config/fish/completions/chorus.fish",
}


@click.command("completion")
@click.argument("shell", type=click.Choice(SHELLS), required=False)
@click.pass_context
def command(ctx: click.Context, shell: str | None) -> None:
    """Print the completion script of SHELL (by default the one in use): bash, zsh or fish."""
    chosen = shell or Path(os.environ.get("SHELL", "")).name
    if chosen not in HOW:
        raise click.UsageError("which shell? write chorus completion bash, zsh or fish", ctx)
    kind = get_completion_class(chosen)
    assert kind is not None, "click knows all of SHELLS"
    root = ctx.find_root()
    script = kind(root.command, {}, "chorus", "_CHORUS_COMPLETE").source()
    print(f"# {HOW[chosen]}\n{script}")
