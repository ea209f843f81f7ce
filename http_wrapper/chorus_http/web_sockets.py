"""uvicorn's WebSocket protocol, that a connection of it can be cut, and that it logs no addresses."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from chorus_http.exchange import ABORT_KEY

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState
    from websockets.http11 import Request

_log = logging.getLogger(__name__)
_log.setLevel(logging.WARNING)  # it logs each opening with its query


class BoundedWebSocketProtocol(WebSocketsSansIOProtocol):
    """One connection; the sizes are in uvicorn's configuration."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.logger = _log

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            # The app has not begun: its task runs after this callback.
            cast("dict[str, object]", self.scope)[ABORT_KEY] = self.transport.abort
