"""Sees what models came and went while the agent runs: a file that the owner put there, a server that came up late."""

from __future__ import annotations

import asyncio
import logging

from chorus_client.agent import Agent
from chorus_client.hf_folders import HfFolders
from chorus_client.inventory import Inventory

log = logging.getLogger(__name__)


class Lookout:
    """`run` looks every `every_s` seconds and reads new files through; `look` looks at once."""

    def __init__(self, inventory: Inventory, folders: HfFolders, agent: Agent, *, every_s: float) -> None:
        self._inventory = inventory
        self._folders = folders
        self._agent = agent
        self._every_s = every_s
        self._looked = asyncio.Event()
        self._looked.set()  # the agent has looked before it started
        self._told = ""

    async def look(self) -> None:
        """The folders first, then what the engines offer; the coordinator hears of it when it is not the same."""
        await self._inventory.refresh()
        await self._folders.refresh()
        await self._agent.inventory_changed()
        self._looked.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look_again_and_again(), name="lookout:look")
            # Apart from the looks: a first start must not wait for hundreds of gigabytes.
            group.create_task(self._digest(), name="lookout:digest")

    async def _look_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.look()
                self._told = ""
            except OSError as error:
                # A disk that fails once must not end all looking.
                if str(error) != self._told:
                    self._told = str(error)
                    log.warning("the models on this PC cannot be looked at: %s", error)

    async def _digest(self) -> None:
        """Hash the files of which that is to be done yet, then tell."""
        while True:
            await self._looked.wait()
            self._looked.clear()
            before = [*self._inventory.files(), *self._folders.files()]
            await self._inventory.digest()
            await self._folders.digest()
            if [*self._inventory.files(), *self._folders.files()] != before:
                await self._agent.inventory_changed()
