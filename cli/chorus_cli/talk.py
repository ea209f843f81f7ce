"""`chorus chat` on a terminal: a conversation with one model or council, streamed, with commands behind a slash.

The history lives in this process; `/save` writes it down.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

from chorus_cli.conversation import Answer, Conversation
from chorus_cli.waiting import Waiting
from chorus_http.chats.asking import Text
from chorus_proto.catalogue import closest
from chorus_proto.cluster import Cluster
from chorus_proto.errors import ModelNotFound
from chorus_proto.files import write_atomically
from chorus_proto.logs import escaped
from chorus_server.console import LineSession, ReadLine, Screen, Write
from chorus_server.console.text import printable

HELP = """\
A line is said to the model. \"\"\" begins a text of several lines, \"\"\" ends it.
/model [NAME]   show or change the model; council/all and other councils are models too
/system [TEXT]  show or change the system prompt; /system - removes it
/again          answer the last question anew
/new            begin anew; the model and the system prompt stay
/save FILE      write the conversation as Markdown
/bye            leave (also: Ctrl-D); Ctrl-C stops an answer"""

_FENCE = '"""'


class Talk(LineSession):
    """One person's conversation with a model."""

    def __init__(
        self, conversation: Conversation, cluster: Cluster, read_line: ReadLine, write: Write, *, screen: Screen
    ) -> None:
        super().__init__(read_line, write, screen)
        self._conversation = conversation
        self._cluster = cluster
        self._several: list[str] | None = None

    @property
    def prompt(self) -> str:
        return ">>> " if self._several is None else "... "

    async def obey(self, line: str) -> bool:
        """False when it was `/bye`."""
        if self._several is not None or line.startswith(_FENCE):
            return await self._one_of_several(line)
        if not line:
            return True
        if not line.startswith("/"):
            await self._say_to_model(line)
            return True
        command, _, rest = line.partition(" ")
        commands: dict[str, Callable[[str], object]] = {
            "/help": lambda _: self._write(HELP + "\n"),
            "/?": lambda _: self._write(HELP + "\n"),
            "/system": self._change_system,
            "/new": self._begin_anew,
            "/save": self._save,
        }
        match command.lower():
            case "/bye" | "/quit" | "/exit":
                return False
            case "/model":
                await self._change_model(rest.strip())
            case "/again":
                if not self._conversation.take_back():
                    self._say("nothing was asked yet")
                else:
                    await self._answer()
            case known if known in commands:
                commands[known](rest.strip())
            case _:
                near = closest(command, [*commands, "/model", "/again", "/bye"])
                self._say(f"error: no command {command}; {f'did you mean {near[0]}? ' if near else ''}/help lists them")
        return True

    async def _one_of_several(self, line: str) -> bool:
        """A line between fences of three quotes."""
        if self._several is None:
            self._several, line = [], line.removeprefix(_FENCE)
        if not line.endswith(_FENCE):
            self._several.append(line)
            return True
        text = "\n".join([*self._several, line.removesuffix(_FENCE)]).strip("\n")
        self._several = None
        if text.strip():
            await self._say_to_model(text)
        return True

    async def _say_to_model(self, text: str) -> None:
        self._conversation.ask(text)
        await self._answer()

    async def _answer(self) -> None:
        model, context_tokens = await self._conversation.chosen()
        answer = Answer(model=model)
        waiting = Waiting(self._cluster, model, self._write) if self._screen.live else None
        try:
            async with aclosing(self._conversation.answer(answer, context_tokens)) as pieces:
                if waiting is not None:
                    waiting.begin()
                async for piece in pieces:
                    if isinstance(piece, Text):
                        if waiting is not None:
                            await waiting.end()
                        self._write(printable(piece.text))
        finally:
            if waiting is not None:
                await waiting.end()
            if answer.text:
                self._write("\n")
        self._tell(answer)

    def _tell(self, answer: Answer) -> None:
        """A faint line on how the answer came about; only people read it."""
        if answer.trimmed is not None:
            self._faint(f"the first {answer.trimmed.dropped_messages} messages no longer fit and were not sent")
        if not self._screen.live:
            return
        words = [answer.model, *([answer.node] if answer.node else []), f"{answer.completion_tokens} tokens"]
        if answer.tokens_per_s is not None:
            words.append(f"{answer.tokens_per_s:.0f} tokens/s")
        if answer.first_s is not None:
            words.append(f"first after {answer.first_s:.1f} s")
        if answer.finish_reason == "length":
            words.append("cut at its limit of tokens")
        if answer.council is not None:
            agreeing = sum(member.agrees is True for member in answer.council.members)
            words.append(f"{agreeing} of {len(answer.council.members)} agree")
        self._faint(", ".join(words))

    def _faint(self, line: str) -> None:
        text = escaped(f"({line})")
        self._write(f"\x1b[2m{text}\x1b[0m\n" if self._screen.colour else f"{text}\n")

    async def _change_model(self, name: str) -> None:
        before = self._conversation.model
        self._conversation.model = name or before
        try:
            model, context_tokens = await self._conversation.chosen()
        except ModelNotFound:
            self._conversation.model = before
            raise
        self._say(f"model: {model}{f', {context_tokens} tokens of context' if context_tokens else ''}")

    def _change_system(self, text: str) -> None:
        if text:
            self._conversation.system = "" if text == "-" else text
        self._say(f"system prompt: {self._conversation.system or 'none'}")

    def _begin_anew(self, _: str) -> None:
        self._conversation.line.clear()
        self._say("a new conversation")

    def _save(self, name: str) -> None:
        if not name:
            self._say("usage: /save FILE")
            return
        path = Path(name).expanduser()
        try:
            if path.exists():
                self._say(f"error: {path} exists; name another file")
                return
            write_atomically(path, self._conversation.as_markdown().encode())
        except OSError as error:
            self._say(f"error: {path} cannot be written: {error.strerror or error}")
            return
        self._say(f"saved: {path}")
