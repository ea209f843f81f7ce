"""How long Ollama may keep us waiting; apart from the engine, whose library is only imported where Ollama is used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OllamaLimits:
    """Seconds that Ollama may keep us waiting."""

    connect_s: float = 3.0
    first_token_s: float = 900.0
    """Ollama may load the model again meanwhile."""
    next_token_s: float = 900.0
    short_answer_s: float = 10.0
    load_s: float = 6 * 3600.0
    unload_s: float = 30.0
    probe_every_s: float = 5.0
    pull_silence_s: float = 600.0
    """Between two steps of a download; checking the sum of a large layer is silent."""
