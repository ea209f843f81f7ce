"""`parallel_tool_calls: false` for an engine that takes it and calls on: llama.cpp's grammar allows any number."""

from __future__ import annotations

from chorus_proto.generation import Delta, Done, PieceBatches, Prefilled


async def one_call(batches: PieceBatches) -> PieceBatches:
    """The same pieces, up to where a second call begins; the answer ends there. Whoever made `batches` closes them."""
    tokens = prompt_tokens = 0
    async for pieces in batches:
        for place, piece in enumerate(pieces):
            if isinstance(piece, Prefilled):
                prompt_tokens = piece.of_tokens
            elif isinstance(piece, Delta):
                tokens += piece.tokens
                if any(part.index > 0 for part in piece.tool_calls):
                    end = Done(finish_reason="tool_calls", prompt_tokens=prompt_tokens, completion_tokens=tokens)
                    yield [*pieces[:place], end]
                    return
        yield pieces
