"""What an agent is set to do for its PC's owner, and that the tasks do it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from chorus_client.care import can_tell_loads_apart, caring, computing_for_us, policy_of
from chorus_client.policy import Condition, Limits, Policy, Reaction
from chorus_client.settings import AgentSettings
from chorus_client.working_hours import working_hours
from chorus_proto.clock import SystemClock
from chorus_proto.settings import SettingsError
from chorus_proto.values import ALL_OURS, EngineKind
from tests.support.small_cluster import small_cluster


def test_every_reaction_and_limit_follows_from_a_setting() -> None:
    hours = ("mon-fri 18:00-08:00",)
    changed = AgentSettings(
        polite_hours=hours,
        polite_outside_hours=Reaction.LOWER,
        polite_owner=Reaction.PAUSE,
        polite_owner_away_s=1,
        polite_battery=Reaction.EVICT,
        polite_battery_low=Reaction.EVICT,
        polite_battery_percent=2,
        polite_cpu=Reaction.LOWER,
        polite_cpu_percent=3,
        polite_gpu=Reaction.LOWER,
        polite_gpu_percent=4,
        polite_gpu_memory_percent=5,
        polite_memory=Reaction.IGNORE,
        polite_memory_bytes=6,
        polite_slots=7,
        polite_settle_s=8,
    )
    policy, default = policy_of(changed), policy_of(AgentSettings())
    assert policy == Policy(
        reactions={
            Condition.HOURS: Reaction.LOWER,
            Condition.OWNER: Reaction.PAUSE,
            Condition.BATTERY: Reaction.EVICT,
            Condition.BATTERY_LOW: Reaction.EVICT,
            Condition.CPU: Reaction.LOWER,
            Condition.GPU: Reaction.LOWER,
            Condition.MEMORY: Reaction.IGNORE,
        },
        limits=Limits(
            hours=working_hours(hours),
            away_s=1,
            battery_percent=2,
            cpu_percent=3,
            gpu_percent=4,
            gpu_memory_percent=5,
            memory_bytes=6,
            settle_s=8,
        ),
        lowered_slots=7,
    )
    assert set(default.reactions) == set(Condition)
    assert default.limits == Limits(), "the defaults stand in one place only by name"
    for field in dataclasses.fields(Limits):
        assert getattr(policy.limits, field.name) != getattr(default.limits, field.name), field.name


def test_hours_that_cannot_be_read_stop_the_start() -> None:
    with pytest.raises(SettingsError, match="polite_hours"):
        policy_of(AgentSettings(polite_hours=("after work",)))


@pytest.mark.parametrize(
    ("settings", "names", "apart"),
    [
        (AgentSettings(), [], True),
        (AgentSettings(engines=(EngineKind.OLLAMA,)), ["ollama"], True),
        (AgentSettings(engines=(EngineKind.OLLAMA,), ollama_url="http://10.0.0.7:11434"), [], True),
        (AgentSettings(servers_file=Path("servers.json")), ["llama-server"], True),
        (AgentSettings(engines=(EngineKind.REMOTE,), remote_url="http://localhost:8000/v1"), [], False),
        (AgentSettings(engines=(EngineKind.REMOTE,), remote_url="http://10.0.0.7:8000/v1"), [], True),
        (AgentSettings(remote_url="http://localhost:8000/v1"), [], True),
    ],
)
def test_programs_that_compute_for_us_are_not_the_owners(
    settings: AgentSettings, names: list[str], apart: bool
) -> None:
    assert computing_for_us(settings) == names
    assert can_tell_loads_apart(settings) is apart


def test_the_tasks_tell_the_hub_and_end_when_they_are_cancelled(tmp_path: Path) -> None:
    later = [(datetime.now() + timedelta(hours=hours)).strftime("%H:%M") for hours in (3, 4)]
    settings = AgentSettings(polite_hours=(f"{later[0]}-{later[1]}",), polite_memory=Reaction.IGNORE)

    async def scenario() -> None:
        async with asyncio.timeout(30), small_cluster(tmp_path, "attic") as cluster:
            attic = cluster.agents["attic"]
            tasks = caring(
                settings, policy_of(settings), attic.agent, attic.link, attic.pool, SystemClock(), nvidia=False
            )
            assert {task.get_name() for task in tasks} == {"polite", "wakefulness", "sleep-notice"}

            async def until(met: Callable[[str], bool]) -> None:
                while (node := await cluster.node("attic")) is None or not met(node.courtesy.words):
                    await asyncio.sleep(0.01)

            await until(lambda words: words.startswith("polite pause: outside its hours"))
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ended)
            attic.agent.be_polite(ALL_OURS)
            await until(lambda words: not words)

    asyncio.run(scenario())
