"""The settings' seconds, as the limits that each kind of engine works with."""

from __future__ import annotations

from chorus_client.engines.ollama_limits import OllamaLimits
from chorus_client.engines.openai_http import HttpLimits
from chorus_client.engines.served_process import ServeLimits
from chorus_client.idle_probe import ProbeLimits
from chorus_client.pool import PoolRules
from chorus_client.restarts import RestartRules
from chorus_client.settings import AgentSettings
from chorus_client.transfer.checked_resolver import own_hosts
from chorus_client.transfer.http_download import DownloadLimits
from chorus_client.watchdog import WatchLimits


def _backstop_s(settings: AgentSettings) -> float:
    """A connection's own limit, looser than any of the watchdog's, which knows more and is to be the first to speak.

    Between two tokens the watchdog may allow as much as before the first: while another one's prompt is computed.
    """
    return 1.5 * max(settings.first_token_within_s, settings.next_token_within_s)


def watch_limits(settings: AgentSettings) -> WatchLimits:
    """When a generation is hung."""
    return WatchLimits(
        first_s=settings.first_token_least_s,
        slowness=settings.prefill_slowness,
        first_cap_s=settings.first_token_within_s,
        between_s=settings.next_token_least_s,
        between_gaps=settings.next_token_gaps,
        between_cap_s=settings.next_token_within_s,
        assumed_prefill_tokens_per_s=settings.prefill_assumed_tokens_per_s,
    )


def probe_limits(settings: AgentSettings) -> ProbeLimits:
    """When an idle engine is tried."""
    return ProbeLimits(every_s=settings.idle_probe_s, within_s=settings.idle_probe_within_s)


def download_limits(settings: AgentSettings) -> DownloadLimits:
    return DownloadLimits(
        connect_s=max(10.0, settings.connect_within_s),  # a server on the internet is farther than the coordinator
        stall_s=settings.download_stall_s,
        most_bytes=settings.download_limit_bytes,
        hosts=frozenset(host.lower() for host in settings.download_hosts) | own_hosts(settings.registry_url),
    )


def http_limits(settings: AgentSettings) -> HttpLimits:
    """For a server that speaks OpenAI's API, ours or somebody else's."""
    return HttpLimits(
        connect_s=settings.connect_within_s,
        first_token_s=_backstop_s(settings),
        next_token_s=_backstop_s(settings),
        short_answer_s=settings.short_answer_within_s,
    )


def serve_limits(settings: AgentSettings) -> ServeLimits:
    """For an engine that is a child process of ours."""
    return ServeLimits(
        load_s=settings.load_within_s,
        load_s_per_gib=settings.load_s_per_gib,
        load_cap_s=settings.load_cap_s,
        stall_s=settings.load_stall_s,
        stop_grace_s=settings.stop_within_s,
        quiet_s=settings.cancel_quiet_within_s,
        http=http_limits(settings),
    )


def pool_rules(settings: AgentSettings) -> PoolRules:
    return PoolRules(
        room_within_s=settings.room_within_s,
        swap_after_s=settings.swap_after_s,
        restarts=restart_rules(settings),
        watch=watch_limits(settings),
        probe=probe_limits(settings),
    )


def restart_rules(settings: AgentSettings) -> RestartRules:
    """For whatever the agent starts again after a crash."""
    return RestartRules(
        last_s=settings.restart_max_s,
        good_after_s=settings.crash_loop_within_s,
        loop_crashes=settings.crash_loop_after,
        loop_within_s=settings.crash_loop_within_s,
        probe_every_s=settings.crash_probe_every_s,
    )


def ollama_limits(settings: AgentSettings) -> OllamaLimits:
    """For Ollama, which may load a model again before any first token and does not tell a load's progress."""
    return OllamaLimits(
        connect_s=settings.connect_within_s,
        first_token_s=_backstop_s(settings),
        next_token_s=_backstop_s(settings),
        short_answer_s=settings.short_answer_within_s,
        load_s=settings.load_cap_s,
        unload_s=settings.ollama_unload_within_s,
        probe_every_s=settings.probe_every_s,
    )
