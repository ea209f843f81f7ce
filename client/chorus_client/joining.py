"""A PC joins a hub by a token, once, and remembers the hub and its own secret in its agent's folder."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec
from grpc import aio

from chorus_client.link import PERMANENT, Refused
from chorus_client.membership import IN_CLEAR, Membership, local_membership
from chorus_proto import membership_pb2_grpc
from chorus_proto.channel import ERROR_CODE_KEY
from chorus_proto.convert_membership import join_message
from chorus_proto.errors import CoordinatorUnavailable, Forbidden
from chorus_proto.files import write_atomically
from chorus_proto.ids import NodeId
from chorus_proto.membership import JoinToken, JoinWish, TokenId, digest_of, new_node_secret, node_bearer
from chorus_proto.settings import SettingsError
from chorus_proto.tls.dial import dial
from chorus_proto.tls.peer import pinned_authority

log = logging.getLogger(__name__)

HUB_FILE = "hub.json"
"""In the agent's folder, readable by its owner only."""


class HubFile(msgspec.Struct, frozen=True, kw_only=True):
    """The hub that this node belongs to."""

    address: str
    """HOST:PORT where it was when this node joined."""
    ca_pem: str
    secret: str
    token_id: str
    joined: bool
    """False: the hub has not said yes yet; it is asked again with the same secret."""


class Joining:
    """Of one agent; its `membership` is the `Door` of its connections."""

    def __init__(
        self,
        address: str,
        *,
        state_dir: Path,
        folder: Path,
        node_id: NodeId,
        name: str,
        token: JoinToken | None,
        within_s: float,
    ) -> None:
        """`address`: HOST:PORT of the hub. `token`: None when this PC has joined before, or needs none."""
        self._address = address
        self._state_dir = state_dir
        self._path = folder / HUB_FILE
        self._node_id = node_id
        self._name = name
        self._token = token
        self._within_s = within_s
        self._one_at_a_time = asyncio.Lock()

    async def membership(self) -> Membership:
        """Joins first where that is still to be done. Raises Refused, CoordinatorUnavailable."""
        local = local_membership(self._state_dir, self._address)
        if local is not None:
            return local
        async with self._one_at_a_time:
            kept = read_hub_file(self._path)
            if self._token is not None and (kept is None or kept.token_id != self._token.token_id):
                kept = await self._begun(self._token)
            if kept is None:
                return IN_CLEAR
            if not kept.joined:
                await self._join(kept)
        return Membership(ca_pem=kept.ca_pem.encode("ascii"), bearer=node_bearer(self._node_id, kept.secret))

    async def _begun(self, token: JoinToken) -> HubFile:
        """Know the hub by its authority, before anything is told to it. Raises Refused, CoordinatorUnavailable."""
        try:
            ca_pem = await asyncio.to_thread(
                lambda: pinned_authority(self._address, token.fingerprint, within_s=self._within_s)
            )
        except Forbidden as error:
            raise Refused(error.message) from None
        begun = HubFile(
            address=self._address,
            ca_pem=ca_pem.decode("ascii"),
            secret=new_node_secret(),
            token_id=token.token_id,
            joined=False,
        )
        write_atomically(self._path, msgspec.json.encode(begun))
        return begun

    async def _join(self, kept: HubFile) -> None:
        """Raises Refused, CoordinatorUnavailable."""
        if self._token is None:
            raise Refused("this PC has begun to join and not ended it; give it a join token again")
        wish = JoinWish(
            token_id=TokenId(kept.token_id),
            token_secret=self._token.secret,
            node_id=self._node_id,
            name=self._name,
            digest=digest_of(kept.secret),
        )
        async with dial(self._address, kept.ca_pem.encode("ascii")) as channel:
            try:
                await membership_pb2_grpc.MembershipServiceStub(channel).Join(
                    join_message(wish), timeout=self._within_s
                )
            except aio.AioRpcError as error:
                words = error.details() or error.code().name
                if error.code() in PERMANENT and ERROR_CODE_KEY in dict(error.trailing_metadata()):
                    self._path.unlink(missing_ok=True)
                    raise Refused(words) from None
                raise CoordinatorUnavailable(f"joining did not succeed yet: {words}") from None
        write_atomically(self._path, msgspec.json.encode(msgspec.structs.replace(kept, joined=True)))
        log.info("joined the hub at %s", self._address)


def read_hub_file(path: Path) -> HubFile | None:
    """None when this node has joined no hub. Raises SettingsError when the file is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=HubFile)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError:
        raise SettingsError(f"{path} is damaged; delete it and join again with a token") from None
