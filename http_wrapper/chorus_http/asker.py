"""Whoever has something asked of the cluster: what a call needs to know of its caller."""

from __future__ import annotations

from typing import Protocol

from chorus_proto.ids import RequestId


class Asker(Protocol):
    """An `Exchange`, or the wish of a chat."""

    @property
    def request_id(self) -> RequestId: ...

    @property
    def user(self) -> str:
        """On whose behalf; see `Call.user`."""
        ...

    @property
    def key_id(self) -> str:
        """Empty where no key was shown."""
        ...
