"""What an agent does beside its work for the PC that it runs on: leaves it to its owner, and survives its sleep."""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import urlsplit

from chorus_client.activity.sensors import Sensors
from chorus_client.agent import Agent
from chorus_client.link import CoordinatorLink
from chorus_client.policy import Condition, Limits, Policy, Reaction
from chorus_client.polite import Polite
from chorus_client.pool import Pool
from chorus_client.settings import AgentSettings
from chorus_client.sleep_notice import listen
from chorus_client.sleep_watch import SleepWatch, asleep_s
from chorus_client.speed_check import SpeedRules, check_speeds
from chorus_client.wakefulness import Wakefulness
from chorus_client.working_hours import working_hours
from chorus_proto.clock import Clock
from chorus_proto.exposure import is_loopback
from chorus_proto.values import EngineKind

log = logging.getLogger(__name__)

_WAKE_LOOK_S = 1.0


def policy_of(settings: AgentSettings) -> Policy:
    """Raises SettingsError for hours that cannot be read."""
    return Policy(
        reactions={
            Condition.HOURS: settings.polite_outside_hours,
            Condition.OWNER: settings.polite_owner,
            Condition.BATTERY: settings.polite_battery,
            Condition.BATTERY_LOW: settings.polite_battery_low,
            Condition.CPU: settings.polite_cpu,
            Condition.GPU: settings.polite_gpu,
            Condition.MEMORY: settings.polite_memory,
        },
        limits=Limits(
            hours=working_hours(settings.polite_hours),
            away_s=settings.polite_owner_away_s,
            battery_percent=settings.polite_battery_percent,
            cpu_percent=settings.polite_cpu_percent,
            gpu_percent=settings.polite_gpu_percent,
            gpu_memory_percent=settings.polite_gpu_memory_percent,
            memory_bytes=settings.polite_memory_bytes,
            settle_s=settings.polite_settle_s,
        ),
        lowered_slots=settings.polite_slots,
    )


def caring(
    settings: AgentSettings,
    policy: Policy,
    agent: Agent,
    link: CoordinatorLink,
    pool: Pool,
    clock: Clock,
    *,
    nvidia: bool,
) -> list[asyncio.Task[None]]:
    """The tasks, for the caller to own. `nvidia`: whether such cards are in this PC."""
    loads = can_tell_loads_apart(settings)
    sensors = Sensors(
        clock,
        idle=policy.reactions[Condition.OWNER] is not Reaction.IGNORE,
        cpu=loads and policy.reactions[Condition.CPU] is not Reaction.IGNORE,
        gpu=loads and nvidia and policy.reactions[Condition.GPU] is not Reaction.IGNORE,
        also=computing_for_us(settings),
    )
    polite = Polite(policy, sensors.look, clock, agent, every_s=settings.policy_every_s)
    rules = SpeedRules(least_share=settings.slow_share)
    wakefulness = Wakefulness(
        SleepWatch(clock, asleep_s, every_s=_WAKE_LOOK_S, longest_s=settings.slept_after_s),
        link,
        clock,
        lambda: check_speeds(pool, clock, rules),
        every_s=_WAKE_LOOK_S,
    )
    return [
        asyncio.create_task(polite.run(), name="polite"),
        asyncio.create_task(wakefulness.run(), name="wakefulness"),
        asyncio.create_task(listen(link.leave_for_sleep), name="sleep-notice"),
    ]


def computing_for_us(settings: AgentSettings) -> list[str]:
    """Names of programs beside Chorus's own whose work is ours."""
    names: list[str] = []
    if EngineKind.OLLAMA in settings.engines and _is_here(settings.ollama_url):
        names.append("ollama")
    if settings.servers_file is not None:
        names.append("llama-server")
    return names


def can_tell_loads_apart(settings: AgentSettings) -> bool:
    """False when a server on this PC that nobody can name computes for us: its load would look like the owner's."""
    if EngineKind.REMOTE in settings.engines and _is_here(settings.remote_url):
        log.info("the load of other programs is not looked at: the remote engine's on this PC would be among it")
        return False
    return True


def _is_here(url: str) -> bool:
    return is_loopback(urlsplit(url).hostname or "")
