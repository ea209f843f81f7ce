"""Programs read what the commands say: each one that ends by itself can say it as JSON."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from chorus_cli.main import COMMANDS, chorus

RUNNING = {"up", "coordinator", "http", "agent", "console", "completion"}
"""They run until they are stopped, or print a script."""


def leaves(command: click.Command, path: tuple[str, ...], ctx: click.Context) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            assert inner is not None
            yield from leaves(inner, (*path, name), ctx)
        if not command.invoke_without_command:
            return
    yield " ".join(path), command


ALL = [
    (words, command)
    for name in COMMANDS
    if name not in RUNNING
    for words, command in leaves(chorus.get_command(click.Context(chorus), name), (name,), click.Context(chorus))  # pyright: ignore[reportArgumentType]  # of COMMANDS each is there
]


@pytest.mark.parametrize(("words", "command"), ALL, ids=[words for words, _ in ALL])
def test_a_command_that_ends_by_itself_speaks_json(words: str, command: click.Command) -> None:
    assert any("--json" in parameter.opts for parameter in command.params), f"chorus {words} has no --json"
