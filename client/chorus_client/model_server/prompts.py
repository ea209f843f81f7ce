"""Turns what a caller asks into the tokens that the model reads."""

from __future__ import annotations

from collections.abc import Sequence

import jinja2

from chorus_client.model_server.model import ChatTokenizer
from chorus_proto.errors import ContextLengthExceeded, EngineFailed, InvalidRequest
from chorus_proto.generation import Effort, Generation, Message

_FIRST_MARK, _LAST_MARK = 0xE000, 0xF8FF
"""Unicode's private use area."""


class Prompts:
    """For one model. `context_tokens` bounds prompt and answer together; `table` is the number of tokens it reads."""

    def __init__(self, tokenizer: ChatTokenizer, *, context_tokens: int, table: int) -> None:
        self._tokenizer = tokenizer
        self._encode = tokenizer.backend_tokenizer
        # Some tokenizer.json cut every text to the length that their training used, without a word.
        self._encode.no_truncation()
        self._encode.no_padding()
        self._context_tokens = context_tokens
        self._table = table
        added = tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
        self._special = sorted((one.content for one in added if one.special and len(one.content) > 1), key=len)

    def tokens(self, generation: Generation, *, reasoning: str | None, developer_instructions: str | None) -> list[int]:
        """The prompt's tokens, at least one.

        Raises InvalidRequest, ContextLengthExceeded with both numbers, or EngineFailed when the template is broken.
        """
        if generation.messages is not None:
            turns = _instructed(generation.messages, developer_instructions)
            arguments: dict[str, object] = {"reasoning_effort": reasoning} if reasoning else {}
            if generation.reasoning_effort is Effort.NONE:
                arguments["enable_thinking"] = False
            found = self._chat(turns, arguments)
        else:
            found = self._encode.encode(generation.prompt or "").ids
        field = "messages" if generation.messages is not None else "prompt"
        if not found:
            raise InvalidRequest("The prompt holds no token.", param=field)
        if max(found) >= self._table:
            raise InvalidRequest(f"The prompt holds the token {max(found)}, which the model cannot read.", param=field)
        if len(found) >= self._context_tokens:
            raise ContextLengthExceeded(
                f"The prompt has {len(found)} tokens, but the model's context is {self._context_tokens} tokens.",
                param=field,
            )
        return found

    def _chat(self, messages: Sequence[Message], arguments: dict[str, object]) -> list[int]:
        """Special tokens that a caller wrote are text: a mark that no message holds breaks them until they are read."""
        if not self._tokenizer.chat_template:
            raise InvalidRequest("This model has no chat template; use /v1/completions.", param="messages")
        everything = "".join(message.content for message in messages)
        mark = next(chr(code) for code in range(_FIRST_MARK, _LAST_MARK) if chr(code) not in everything)
        turns: list[dict[str, str]] = []
        for message in messages:
            turn = {"role": message.role, "content": self._broken(message.content, mark)}
            turns.append(turn | {"name": message.name} if message.name else turn)
        try:
            text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **arguments)
        except jinja2.exceptions.SecurityError as error:
            raise EngineFailed(f"the model's chat template does what it may not: {_line(error)}") from None
        except jinja2.TemplateError as error:
            if type(error) is jinja2.TemplateError:  # what `raise_exception` in a template raises, and nothing else
                raise InvalidRequest(
                    f"The model's chat template refuses these messages: {_line(error)}", param="messages"
                ) from None
            raise EngineFailed(f"the model's chat template is broken: {_line(error)}") from None
        except Exception as error:  # noqa: BLE001 - an edge: a template is a program of the model's maker
            raise EngineFailed(f"the model's chat template failed: {type(error).__name__}: {_line(error)}") from None
        return [token for part in text.split(mark) for token in self._encode.encode(part, add_special_tokens=False).ids]

    def _broken(self, content: str, mark: str) -> str:
        for special in self._special:
            if special in content:
                content = content.replace(special, special[0] + mark + special[1:])
        return content


def _instructed(messages: Sequence[Message], instructions: str | None) -> Sequence[Message]:
    """The developer's instructions follow the system prompt, in the one leading turn that templates know."""
    if not instructions:
        return messages
    if messages and messages[0].role == "system":
        return [Message(role="system", content=f"{messages[0].content}\n\n{instructions}"), *messages[1:]]
    return [Message(role="system", content=instructions), *messages]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
