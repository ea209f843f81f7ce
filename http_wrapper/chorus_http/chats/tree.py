"""A session's messages form a tree: an edit or an answer given anew is another child of the same parent. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from chorus_http.chats.records import ChatMessage, MessageId
from chorus_proto.errors import NotFound


class Tree:
    """All messages of one session, in the order in which they came."""

    def __init__(self, messages: Sequence[ChatMessage]) -> None:
        self._messages = {message.id: message for message in messages}
        self._children: dict[MessageId | None, list[ChatMessage]] = {}
        for message in messages:
            self._children.setdefault(message.parent_id, []).append(message)

    def find(self, message_id: str) -> ChatMessage:
        """Raises NotFound."""
        message = self._messages.get(MessageId(message_id))
        if message is None:
            raise NotFound(f"There is no message {message_id[:64]!r} in this chat session.", param="message_id")
        return message

    def line(self, head: MessageId | None) -> list[ChatMessage]:
        """The conversation that ends with `head`, first message first; empty for None. Raises NotFound."""
        found: list[ChatMessage] = []
        while head is not None:
            message = self.find(head)
            found.append(message)
            head = message.parent_id
        return found[::-1]

    def versions(self, message: ChatMessage) -> list[MessageId]:
        """The message and what stands beside it in other branches, oldest first."""
        return [other.id for other in self._children[message.parent_id]]

    def newest_end(self, message_id: str) -> MessageId:
        """Where the conversation goes on from a message when it always takes the newest branch. Raises NotFound."""
        message = self.find(message_id)
        while children := self._children.get(message.id):
            message = children[-1]
        return message.id
