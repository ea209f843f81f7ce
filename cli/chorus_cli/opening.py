"""What an encrypted hub hands its owner at the start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from chorus_cli.announce import Addresses
from chorus_proto.errors import ClusterError
from chorus_proto.files import state_folder
from chorus_proto.keys import NewKey, Scope
from chorus_proto.tls.authority import PUBLIC_FILE
from chorus_proto.tls.folder import FOLDER
from chorus_server.app import RunningCoordinator

FIRST_KEY = "admin"


async def with_credentials(
    at: Addresses, hub: RunningCoordinator, state_dir: Path, *, keys_required: bool
) -> Addresses:
    """`at`, with the first key where there is none yet, a join token and the certificate's place."""
    if hub.authority is None or hub.roster is None:
        return at
    if keys_required and not hub.coordinator.keys.any_live:
        made = await hub.coordinator.create_key(NewKey(name=FIRST_KEY, scopes=(Scope.ADMIN,)))
        at = replace(at, admin_key=made.text)
    at = replace(at, fingerprint=hub.authority.fingerprint)
    if at.http.startswith("https:") and not at.own_certificate:
        at = replace(at, ca_file=state_folder(state_dir) / FOLDER / PUBLIC_FILE)
    try:
        _, token = await hub.roster.create_token()
    except ClusterError:
        return at  # a thousand of them are open: one of those will do
    return replace(at, join_token=token)
