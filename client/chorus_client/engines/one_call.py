"""`parallel_tool_calls: false` for an engine that takes it and calls on: llama.cpp's grammar allows any number."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from chorus_proto.generation import Delta, Done, Piece, Prefilled


async def one_call(pieces: AsyncGenerator[Piece, None]) -> AsyncGenerator[Piece, None]:
    """The same pieces, up to where a second call begins; the answer ends there. Whoever made `pieces` closes them."""
    tokens = prompt_tokens = 0
    async for piece in pieces:
        if isinstance(piece, Prefilled):
            prompt_tokens = piece.of_tokens
        elif isinstance(piece, Delta):
            tokens += piece.tokens
            if any(part.index > 0 for part in piece.tool_calls):
                yield Done(finish_reason="tool_calls", prompt_tokens=prompt_tokens, completion_tokens=tokens)
                return
        yield piece
