"""What survives a restart, in SQLite."""

from chorus_server.store.records import Measurement, Opened, SavedNode
from chorus_server.store.store import Store

__all__ = ["Measurement", "Opened", "SavedNode", "Store"]
