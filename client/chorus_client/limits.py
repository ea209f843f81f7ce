"""The settings' seconds, as the limits that each kind of engine works with."""

from __future__ import annotations

from chorus_client.engines.ollama import OllamaLimits
from chorus_client.engines.openai_http import HttpLimits
from chorus_client.engines.served_process import ServeLimits
from chorus_client.settings import AgentSettings


def http_limits(settings: AgentSettings) -> HttpLimits:
    """For a server that speaks OpenAI's API, ours or somebody else's."""
    return HttpLimits(
        connect_s=settings.connect_within_s,
        first_token_s=settings.first_token_within_s,
        next_token_s=settings.next_token_within_s,
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
        http=http_limits(settings),
    )


def ollama_limits(settings: AgentSettings) -> OllamaLimits:
    """For Ollama, which may load a model again before any first token and does not tell a load's progress."""
    return OllamaLimits(
        connect_s=settings.connect_within_s,
        first_token_s=settings.first_token_within_s,
        next_token_s=settings.next_token_within_s,
        short_answer_s=settings.short_answer_within_s,
        load_s=settings.load_cap_s,
        unload_s=settings.ollama_unload_within_s,
        probe_every_s=settings.probe_every_s,
    )
