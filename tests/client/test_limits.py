"""Mirrors chorus_client/limits.py, and that `build_engines` hands the limits to the engines."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chorus_client.app import build_engines
from chorus_client.engines.base import LoadOptions
from chorus_client.engines.ollama import OllamaLimits
from chorus_client.engines.openai_http import HttpLimits
from chorus_client.engines.served_process import ServeLimits
from chorus_client.hf_folders import HfFolders
from chorus_client.idle_probe import ProbeLimits
from chorus_client.inventory import Inventory
from chorus_client.limits import http_limits, ollama_limits, probe_limits, serve_limits, watch_limits
from chorus_client.settings import AgentSettings
from chorus_client.watchdog import WatchLimits
from chorus_proto.clock import SystemClock
from chorus_proto.errors import EngineFailed, LoadFailed
from chorus_proto.settings import describe
from chorus_proto.values import EngineKind
from tests.client.engine_contract import answered, ask, silent
from tests.support.engines import TINY

CHANGED = AgentSettings(
    connect_within_s=1,
    first_token_within_s=2,
    next_token_within_s=3,
    short_answer_within_s=4,
    load_within_s=5,
    load_s_per_gib=6,
    load_cap_s=7,
    load_stall_s=8,
    stop_within_s=9,
    ollama_unload_within_s=10,
    probe_every_s=11,
    first_token_least_s=12,
    prefill_slowness=13,
    prefill_assumed_tokens_per_s=14,
    next_token_least_s=15,
    next_token_gaps=16,
    idle_probe_s=17,
    idle_probe_within_s=18,
    cancel_quiet_within_s=19,
)
Limits = HttpLimits | ServeLimits | OllamaLimits | WatchLimits | ProbeLimits
MAKERS = [http_limits, serve_limits, ollama_limits, watch_limits, probe_limits]
CONSTANT = {"pull_silence_s"}
"""Of a download that somebody watches and can stop."""


@pytest.mark.parametrize("of", MAKERS)
def test_every_limit_follows_from_a_setting(of: Callable[[AgentSettings], Limits]) -> None:
    default, changed = of(AgentSettings()), of(CHANGED)
    same = {one.name for one in dataclasses.fields(default) if getattr(default, one.name) == getattr(changed, one.name)}
    assert same <= CONSTANT


@pytest.mark.parametrize("of", MAKERS)
def test_the_default_settings_are_the_engines_own_defaults(of: Callable[[AgentSettings], Limits]) -> None:
    limits = of(AgentSettings())
    assert limits == type(limits)()


@pytest.mark.parametrize("of", [http_limits, ollama_limits])
def test_a_connections_own_limit_never_comes_before_the_watchdogs(
    of: Callable[[AgentSettings], HttpLimits | OllamaLimits],
) -> None:
    for settings in (AgentSettings(), CHANGED):
        connection, watch = of(settings), watch_limits(settings)
        longest_s = max(watch.first_cap_s, watch.between_cap_s)
        assert min(connection.first_token_s, connection.next_token_s) > longest_s


def test_the_settings_reach_a_running_engine(tmp_path: Path) -> None:
    settings = AgentSettings(
        engines=(EngineKind.SCRIPTED,), first_token_within_s=1, next_token_within_s=0.3, stop_within_s=0.3
    )
    inventory, folders = Inventory((), tmp_path), HfFolders((), tmp_path)
    engine = build_engines(settings, inventory, folders, SystemClock())[EngineKind.SCRIPTED]

    async def check() -> None:
        (file,) = await engine.inventory()
        model = await engine.load(file, LoadOptions(slots=1), silent)
        try:
            with pytest.raises(EngineFailed, match=r"no token came from the engine for 1\.5 s"):
                await answered(model, ask("go [[fault hang_after=2]]"))
        finally:
            await model.unload()

    asyncio.run(check())


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX: a shell script stands for the external binary")
@pytest.mark.parametrize(("layers", "flags"), [(None, ""), (0, "--n-gpu-layers 0"), (20, "--n-gpu-layers 20")])
def test_no_layers_on_the_gpu_is_said_and_no_wish_is_left_to_the_engine(
    tmp_path: Path, layers: int | None, flags: str
) -> None:
    program = tmp_path / "llama-server"
    program.write_text('#!/bin/sh\necho "$@" | grep -o -e "--n-gpu-layers [0-9]*"\nexit 1\n')
    program.chmod(0o755)
    settings = AgentSettings(llama_server_path=program, gpu_layers=layers)
    inventory = Inventory((), tmp_path)
    engine = build_engines(settings, inventory, HfFolders((), tmp_path), SystemClock())[EngineKind.LLAMA_SERVER]

    async def check() -> str:
        await inventory.refresh()
        file = next(file for file in await engine.inventory() if file.name == TINY)
        with pytest.raises(LoadFailed) as caught:
            await engine.load(file, LoadOptions(slots=1), silent)
        return caught.value.message

    message = asyncio.run(check())
    assert message.partition("; its last words: ")[2] == flags


def test_layers_are_left_to_the_engine_by_default_and_can_be_none() -> None:
    layers = next(one for one in describe(AgentSettings) if one.name == "gpu_layers")
    assert (layers.default, layers.optional) == (None, True)
