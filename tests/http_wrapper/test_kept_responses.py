"""Mirrors chorus_http/kept_responses.py."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from chorus_http.kept_responses import KeptResponse
from chorus_http.stored_responses import Ended, Told
from chorus_proto.errors import InternalError
from tests.support.patience import granted_s

if TYPE_CHECKING:
    from chorus_proto.dialects.responses_answer import Shell


class Asked:
    def with_output(self, _output: object, *, status: str) -> dict[str, object]:
        return {"status": status, "output": []}


def test_each_of_several_followers_hears_everything_and_the_end_however_slow_it_is() -> None:
    async def run() -> None:
        kept = KeptResponse(cast("Shell", Asked()), user="ann", turns=(), background=True)
        slow, quick = kept.follow(after=-1), kept.follow(after=-1)
        kept.hear(b'event: x\ndata: {"sequence_number":0}\n\n')
        assert isinstance(await anext(slow), Told)  # and now its reader takes its time
        assert isinstance(await anext(quick), Told)
        waiting = asyncio.ensure_future(anext(quick))
        await asyncio.sleep(0)
        kept.fail(InternalError("broke"))
        async with asyncio.timeout(granted_s(2)):
            assert isinstance(await waiting, Ended)
            assert isinstance(await anext(slow), Ended)

    asyncio.run(run())
