"""The coalescing writer, the mailbox and the flow-control window."""

from __future__ import annotations

import asyncio

import pytest

from chorus_proto.frames import BATCH_FRAMES, Mailbox, Outbox, StreamClosed, Window


def text_frame(key: int, payload: bytes, tokens: int) -> str:
    return f"{key}:{payload.decode()}:{tokens}"


async def first_batch(outbox: Outbox[str]) -> list[str]:
    async for batch in outbox.batches():
        return batch
    raise AssertionError("the outbox closed")


def test_payload_that_queues_up_together_leaves_as_one_frame() -> None:
    async def scenario() -> None:
        outbox = Outbox(text_frame)
        outbox.put_answer(1, b"a", 1)
        outbox.put_answer(2, b"x", 1)
        outbox.put_answer(1, b"b", 2)
        assert await first_batch(outbox) == ["1:ab:3", "2:x:1"]

    asyncio.run(scenario())


def test_a_closing_frame_stays_behind_the_payload_before_it() -> None:
    async def scenario() -> None:
        outbox = Outbox(text_frame)
        outbox.put_answer(1, b"a", 1)
        outbox.put("end of 1", key=1)
        outbox.put_answer(1, b"late", 1)
        assert await first_batch(outbox) == ["1:a:1", "end of 1", "1:late:1"]

    asyncio.run(scenario())


def test_a_batch_holds_at_most_its_limit_of_frames() -> None:
    async def scenario() -> None:
        outbox = Outbox(text_frame)
        for number in range(BATCH_FRAMES + 1):
            outbox.put(f"frame {number}")
        batches = outbox.batches()
        assert len(await anext(batches)) == BATCH_FRAMES
        assert await anext(batches) == [f"frame {BATCH_FRAMES}"]

    asyncio.run(scenario())


def test_a_waiting_writer_wakes_for_a_new_frame_and_ends_on_close() -> None:
    async def scenario() -> None:
        outbox = Outbox(text_frame)

        async def drain() -> list[str]:
            return [frame async for batch in outbox.batches() for frame in batch]

        writer = asyncio.create_task(drain())
        await asyncio.sleep(0)
        outbox.put("one")
        await asyncio.sleep(0)
        outbox.close()
        assert await writer == ["one"]
        with pytest.raises(StreamClosed):
            outbox.put("two")

    asyncio.run(scenario())


def test_a_peer_that_reads_nothing_loses_the_stream_instead_of_growing_it() -> None:
    outbox = Outbox(text_frame, limit_bytes=1_000)
    with pytest.raises(StreamClosed):
        for number in range(100):
            outbox.put_answer(number, b"x" * 50, 1)


def test_a_mailbox_gives_everything_at_once_and_the_error_last() -> None:
    async def scenario() -> None:
        mailbox: Mailbox[int] = Mailbox()
        mailbox.put(1)
        mailbox.put(2)
        mailbox.fail(StreamClosed())
        mailbox.put(3)
        assert await mailbox.take() == [1, 2]
        with pytest.raises(StreamClosed):
            await mailbox.take()

    asyncio.run(scenario())


def test_a_window_holds_the_sender_until_the_reader_has_read() -> None:
    async def scenario() -> None:
        window = Window(10)
        assert window.spend(9)
        assert not window.spend(5)
        waiting = asyncio.create_task(window.wait())
        await asyncio.sleep(0)
        window.grant(4)
        await asyncio.sleep(0)
        assert not waiting.done()
        window.grant(1)
        await waiting

    asyncio.run(scenario())


def test_later_tokens_keep_a_gap_and_what_is_urgent_does_not_wait_for_it() -> None:
    async def scenario() -> None:
        outbox = Outbox(text_frame, gap_s=30.0)
        batches = outbox.batches()
        outbox.put_answer(1, b"first", 1, urgent=True)
        assert await anext(batches) == ["1:first:1"]
        outbox.put_answer(1, b"a", 1)
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        outbox.put_answer(1, b"b", 1)
        await asyncio.sleep(0)
        assert not waiting.done()
        outbox.put("end of 1", key=1)
        assert await waiting == ["1:ab:2", "end of 1"]
        outbox.put_answer(2, b"x", 1)
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        outbox.put_answer(3, b"new", 1, urgent=True)
        assert await waiting == ["2:x:1", "3:new:1"]
        outbox.put_answer(2, b"y", 1)
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        outbox.close()
        assert await waiting == ["2:y:1"]

    asyncio.run(scenario())
