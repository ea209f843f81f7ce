"""Hears from the system that the PC is about to sleep, and holds it back for the moment that a goodbye takes."""

from chorus_client.sleep_notice.listening import listen

__all__ = ["listen"]
