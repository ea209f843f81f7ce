"""The secret part of an API key's text, for tests that look for it where it must not be."""

from __future__ import annotations


def secret_of(key_text: str) -> str:
    """What follows `chorus_<id>_`; the secret itself may hold underscores."""
    _, _, secret = key_text.split("_", 2)
    return secret
