"""What an engine tells, piece by piece: for tests that do not care what came together."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from chorus_proto.generation import Piece, PieceBatches


async def each(batches: PieceBatches) -> AsyncGenerator[Piece, None]:
    """Closing it closes `batches`."""
    async with aclosing(batches) as closing:
        async for pieces in closing:
            for piece in pieces:
                yield piece
