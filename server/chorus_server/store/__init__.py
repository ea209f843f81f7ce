"""What survives a restart, in SQLite."""

from chorus_server.store.backends import BackendTable
from chorus_server.store.keys import KeyTable, SavedKey
from chorus_server.store.members import MemberTable, SavedMember, SavedToken
from chorus_server.store.records import Measurement, Opened, SavedNode
from chorus_server.store.store import Store

__all__ = [
    "BackendTable",
    "KeyTable",
    "Measurement",
    "MemberTable",
    "Opened",
    "SavedKey",
    "SavedMember",
    "SavedNode",
    "SavedToken",
    "Store",
]
