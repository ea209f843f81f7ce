"""`chorus up` waits for the first model that can answer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from chorus_cli.commands.up import models_ready
from chorus_proto.ids import ModelName, NodeId
from chorus_server.events import Event, Events, InventoryChanged

if TYPE_CHECKING:
    from chorus_server.app import RunningCoordinator

SOMETHING: Event = InventoryChanged(node_id=NodeId("n"))


class Hub:
    """As much of a coordinator as is asked."""

    def __init__(self) -> None:
        self.events = Events()
        self.ready: list[str] = []
        self.looks = 0

    async def state(self) -> object:
        self.looks += 1
        models = [SimpleNamespace(name=name, ready_on=("n",), embedding=name == "minilm") for name in self.ready]
        return SimpleNamespace(models=models)

    async def happens(self) -> None:
        self.events.tell(SOMETHING)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


def test_the_first_model_that_can_answer_is_told_and_then_nobody_looks_any_more() -> None:
    async def run() -> None:
        hub = Hub()
        async with models_ready(cast("RunningCoordinator", SimpleNamespace(coordinator=hub))) as model:
            hub.ready = ["minilm"]
            await hub.happens()
            assert not model.done()
            hub.ready = ["minilm", "tiny"]
            await hub.happens()
            assert await model == ModelName("tiny")
            looks = hub.looks
            for _ in range(3):
                await hub.happens()
            assert hub.looks == looks

    asyncio.run(run())


def test_who_stops_before_there_is_a_model_leaves_nothing_behind() -> None:
    async def run() -> None:
        hub = Hub()
        with pytest.raises(RuntimeError):
            async with models_ready(cast("RunningCoordinator", SimpleNamespace(coordinator=hub))):
                raise RuntimeError
        await hub.happens()
        assert hub.looks == 0

    asyncio.run(run())
