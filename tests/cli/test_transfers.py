from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from chorus_cli.transfers import Lines, fields, followed, rows, sentence
from chorus_proto.errors import ModelDamaged, NotFound, TransferFailed
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.transfers import Transfer, TransferKind, TransferState
from tests.support.clock import FakeClock

RUNNING = Transfer(
    transfer_id="abc",
    kind=TransferKind.COPY,
    state=TransferState.RUNNING,
    model=ModelName("big"),
    node_id=NodeId("1"),
    node_name="cellar\x1b[2J",
    source="attic",
    done_bytes=1 << 30,
    total_bytes=4 << 30,
    bytes_per_s=float(64 << 20),
    detail="copying big",
)
DONE = replace(RUNNING, state=TransferState.DONE, done_bytes=4 << 30, bytes_per_s=0.0, detail="")


class Told:
    """A cluster that tells one state of the transfer after the other, and what was shown of them."""

    def __init__(self, *states: Transfer | None) -> None:
        self._states = list(states)
        self.shown: list[Transfer] = []

    async def transfers(self) -> tuple[Transfer, ...]:
        state = self._states.pop(0)
        return () if state is None else (replace(state, transfer_id="other"), state)

    def show(self, transfer: Transfer) -> None:
        self.shown.append(transfer)


def follow(told: Told, begun: Transfer = RUNNING) -> Transfer:
    async def no_pause(_seconds: float) -> None:
        pass

    return asyncio.run(followed(told, begun, told, pause=no_pause))


def test_a_transfer_is_followed_to_its_end() -> None:
    told = Told(RUNNING, DONE)
    assert follow(told) == DONE
    assert [one.state for one in told.shown] == [TransferState.RUNNING, TransferState.RUNNING, TransferState.DONE]


def test_what_was_there_already_is_not_asked_for() -> None:
    assert follow(Told(), DONE) == DONE


def test_a_transfer_that_failed_raises_why() -> None:
    with pytest.raises(ModelDamaged, match="wrong sha256"):
        follow(Told(replace(RUNNING, state=TransferState.FAILED, error=ModelDamaged("wrong sha256"))))
    with pytest.raises(TransferFailed, match="no reason"):
        follow(Told(replace(RUNNING, state=TransferState.CANCELLED)))


def test_a_transfer_that_a_new_coordinator_does_not_know_is_said_to_be_lost() -> None:
    with pytest.raises(NotFound, match="does not know transfer abc"):
        follow(Told(RUNNING, None))


def test_the_sentence_says_how_far_how_fast_and_how_long() -> None:
    assert sentence(RUNNING) == (
        "big to cellar\x1b[2J from attic: running, 1.0 GiB of 4.0 GiB (25%), 64 MiB/s, 48 s left; copying big"
    )
    assert sentence(DONE) == "big to cellar\x1b[2J from attic: done, 4.0 GiB of 4.0 GiB (100%)"
    assert sentence(replace(RUNNING, done_bytes=0, total_bytes=None, bytes_per_s=0.0, source="", detail="")) == (
        "big to cellar\x1b[2J: running"
    )


def test_lines_come_when_something_changes_and_seldom_else(capsys: pytest.CaptureFixture[str]) -> None:
    clock = FakeClock()
    lines = Lines(clock.monotonic_s)
    for _ in range(3):
        lines.show(RUNNING)
        clock.advance(4)
    lines.show(replace(RUNNING, source="barn"))
    lines.show(DONE)
    err = capsys.readouterr().err
    assert err.count("\n") == 3
    assert "\x1b" not in err, "the words of remote PCs drive no terminal"


def test_a_row_and_the_json_of_a_failure_say_why() -> None:
    failed = replace(RUNNING, state=TransferState.FAILED, error=TransferFailed("nobody sends"))
    assert rows([RUNNING, failed]) == [
        ("abc", "big", "cellar\x1b[2J", "attic", "running 25%", "4.0 GiB", "64 MiB/s", "48 s", "copying big"),
        ("abc", "big", "cellar\x1b[2J", "attic", "failed", "4.0 GiB", "64 MiB/s", "", "nobody sends"),
    ]
    assert fields(failed)["error"] == {"code": "transfer_failed", "message": "nobody sends"}
    assert fields(DONE)["error"] is None
