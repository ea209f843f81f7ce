from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chorus_cli.local_agent import LocalAgent
from chorus_proto.clock import SystemClock
from chorus_proto.settings import SettingsError


def test_the_agent_of_this_pc_gets_the_settings_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHORUS_THREADS", "many")
    agent = LocalAgent((f"--state-dir={tmp_path}",), SystemClock())

    async def check() -> None:
        async with asyncio.timeout(30):
            with pytest.raises(SettingsError, match=r"cannot start: threads = 'many' \(environment CHORUS_THREADS\)"):
                await agent.start()

    asyncio.run(check())
