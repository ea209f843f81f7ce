"""The interactive console: a line is a question to all nodes, a few words are commands. It speaks only `Cluster`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from contextlib import aclosing

from chorus_proto.catalogue import closest
from chorus_proto.clock import Clock, SystemClock
from chorus_proto.cluster import Ask, AskFinished, Cluster, MemberAnswer, MemberDelta, MemberStarted
from chorus_proto.dialects.parsed import tokens_estimate
from chorus_proto.generation import Generation, Message
from chorus_proto.ids import new_request_id
from chorus_proto.values import AggregateStrategy
from chorus_server.console import text
from chorus_server.console.columns import COLUMN_WIDTH, Columns
from chorus_server.console.lines import LineSession, ReadLine, Screen, Write

PROMPT = "chorus> "


class Console(LineSession):
    """One person's conversation with a cluster."""

    def __init__(
        self,
        cluster: Cluster,
        read_line: ReadLine,
        write: Write,
        *,
        screen: Screen | None = None,
        strategy: AggregateStrategy = AggregateStrategy.FIRST,
        within_s: float = 300.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(read_line, write, screen or Screen())
        self._cluster = cluster
        self._strategy = strategy
        self._within_s = within_s
        self._clock = clock or SystemClock()

    @property
    def prompt(self) -> str:
        return PROMPT

    async def obey(self, line: str) -> bool:
        """False when it was `quit`."""
        words = line.split()
        if not words:
            return True
        command = words[0].lower()
        match command, len(words):
            case (("quit" | "exit"), 1):
                return False
            case "help", 1:
                self._write(text.HELP + "\n")
            case "nodes", 1:
                self._lines(text.node_lines(await self._cluster.state()))
            case "models", 1:
                self._lines(text.model_lines(await self._cluster.state()))
            case "stats", 1:
                self._lines(text.stats_lines(await self._cluster.state()))
            case "reassign", 1:
                self._lines(text.reassignment_lines(await self._cluster.reassign()))
            case "strategy", (1 | 2):
                self._choose_strategy(words[1:])
            case "ask", _:
                await self._ask_command(line)
            case _:
                # "help me write a letter" is a question: a command is a whole line.
                await self._ask((), line)
        return True

    def _choose_strategy(self, named: Sequence[str]) -> None:
        if named:
            try:
                self._strategy = AggregateStrategy(named[0].lower())
            except ValueError:
                self._say(f"error: no strategy {named[0]!r}; use one of {', '.join(AggregateStrategy)}")
                return
        self._say(f"strategy: {self._strategy}")

    async def _ask_command(self, line: str) -> None:
        """`ask NODE PROMPT`, `ask NODE NODE ... -- PROMPT`, `ask all PROMPT`."""
        _, _, rest = line.partition(line.split()[0])
        head, *after_dashes = re.split(r"\s--(?:\s|$)", rest, maxsplit=1)
        if after_dashes:
            nodes, prompt = head.split(), after_dashes[0].strip()
        else:
            first, _, prompt = rest.strip().partition(" ")
            nodes, prompt = [first], prompt.strip()
        if not nodes or not prompt:
            self._say("usage: ask NODE PROMPT, ask NODE NODE ... -- PROMPT, or ask all PROMPT")
            return
        if [node.lower() for node in nodes] == ["all"]:
            await self._ask((), prompt)
            return
        present = (await self._cluster.state()).nodes
        known = {name for node in present for name in (node.name, node.node_id, node.client_id)}
        for unknown in (node for node in nodes if node not in known):
            names = sorted(node.name for node in present)
            near = closest(unknown, names)
            hint = f"did you mean {near[0]}?" if near else f"nodes: {', '.join(names) or 'none'}."
            self._say(f"error: no node {unknown!r}; {hint} To ask all of them: ask all {line}")
            return
        await self._ask(tuple(nodes), prompt)

    async def _ask(self, nodes: tuple[str, ...], prompt: str) -> None:
        ask = Ask(
            request_id=new_request_id(),
            generation=Generation(messages=(Message(role="user", content=prompt),)).encoded(),
            prompt_tokens_estimate=tokens_estimate(len(prompt.encode("utf-8", "replace"))),
            within_s=self._within_s,
            strategy=self._strategy,
            nodes=nodes,
        )
        finished: AskFinished | None = None
        with contextlib.ExitStack() as around:
            columns: Columns | None = None
            if self._screen.live and self._screen.width >= 2 * COLUMN_WIDTH:
                columns = around.enter_context(Columns(self._write, width=self._screen.width, clock=self._clock))
            async with aclosing(self._cluster.ask(ask)) as events:
                async for event in events:
                    match event:
                        case MemberStarted() if columns is not None:
                            columns.started(event)
                        case MemberDelta() if columns is not None:
                            columns.grew(event)
                        case MemberAnswer() if columns is not None:
                            columns.ended(event)
                        case MemberAnswer():
                            self._say(text.member_line(event))
                        case AskFinished():
                            finished = event
                        case _:
                            pass
        if finished is not None:
            self._show(finished)

    def _show(self, finished: AskFinished) -> None:
        """Every answer in full, then, when there were several, the aggregate."""
        for answer in finished.members:
            if answer.error is None:
                self._heading(text.answer_heading(answer))
                self._write(text.printable(answer.text.strip("\r\n")) + "\n")
            elif self._screen.live:
                self._say(text.member_line(answer))
        if len(finished.members) > 1:
            self._heading(text.aggregate_heading(finished))
            if finished.strategy is not AggregateStrategy.CONCAT:
                # Concatenated, it would be everything above once more.
                self._write(text.printable(finished.text.strip("\r\n")) + "\n")

    def _heading(self, line: str) -> None:
        rule = f"--- {line} ---"
        self._write(f"\x1b[1m{rule}\x1b[0m\n" if self._screen.colour else f"{rule}\n")

    def _lines(self, lines: Sequence[str]) -> None:
        self._write("\n".join(lines) + "\n")
