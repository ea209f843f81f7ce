"""One answer on its way from an engine's pieces to the bytes that its caller reads; the agent's hottest loop."""

from __future__ import annotations

from collections.abc import Sequence

from chorus_client.thinking.separated import Separated
from chorus_proto.dialects.answers import Renderer
from chorus_proto.generation import Delta, Done, Piece
from chorus_proto.values import Timings

PAYLOAD_BYTES = 64 * 1024
"""Most payload of one frame, but for a single delta that is larger."""


class AnswerWriter:
    """Tell it all pieces up to the `Done`, then that. One per answer."""

    __slots__ = ("_render", "_separated", "_unshown", "began", "tokens")

    def __init__(self, render: Renderer, separated: Separated | None) -> None:
        """`separated`: tells thoughts apart; None where there are none to tell."""
        self._render = render
        self._separated = separated
        self.began = False
        """The engine has said something of its answer, although there may be nothing to show yet."""
        self.tokens = 0
        self._unshown = 0

    def written(self, pieces: Sequence[Piece]) -> list[tuple[bytes, int]]:
        """Payloads with the number of their tokens: what came together leaves together, `PAYLOAD_BYTES` at a time.

        Tokens that show nothing yet count with the next that do.
        """
        render, separated = self._render.delta, self._separated
        is_answer = separated is not None and separated.is_answer
        passed = 0
        found: list[tuple[bytes, int]] = []
        parts: list[bytes] = []
        size, tokens = 0, self._unshown
        for piece in pieces:
            if not isinstance(piece, Delta):
                continue
            self.began = True
            tokens += piece.tokens
            self.tokens += piece.tokens
            if separated is None:
                payload = render(piece)
            elif is_answer and piece.text and not piece.tool_calls:
                payload = render(piece)
                passed += piece.tokens
            else:
                payload = b"".join([render(one) for one in separated.deltas(piece)])
                is_answer = separated.is_answer
            parts.append(payload)
            size += len(payload)
            if size >= PAYLOAD_BYTES:
                found.append((b"".join(parts), tokens))
                parts.clear()
                size = tokens = 0
        if separated is not None:
            separated.passed(passed)
        self._unshown = 0 if size else tokens
        if size:
            found.append((b"".join(parts), tokens))
        return found

    def end(self, done: Done, timings: Timings) -> list[bytes]:
        """What was held back and the answer's end, at least one part, each of at most `PAYLOAD_BYTES`: a whole body may
        be larger than a message, and shares the stream with other answers."""
        kept = list[Delta]()
        if self._separated is not None:
            kept, done = self._separated.ended(done)
        tail = b"".join((*map(self._render.delta, kept), self._render.done(done, timings)))
        return [tail[at : at + PAYLOAD_BYTES] for at in range(0, len(tail), PAYLOAD_BYTES)] or [b""]
