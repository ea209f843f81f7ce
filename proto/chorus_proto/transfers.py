"""Model files on their way to a node's disk, as the processes tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from chorus_proto.errors import ClusterError
from chorus_proto.ids import ModelName, NodeId

FEATURE = "model_transfer"
"""In Hello.features of an agent that takes FetchModel, SendModel and CancelFetch."""

FOLDER_FEATURE = "folder_transfer"
"""Of one that sends model folders too, and takes them where its engines can use them."""

CHUNK_BYTES = 1 << 20
PIECE_BYTES = 4 << 20
"""Part of the protocol: chunks and pieces begin at multiples of these, whoever sends them, so that another sender can
go on where one stopped. Messages of 1 MiB move twice as many bytes per second as messages of 256 KiB (measured)."""


class TransferKind(StrEnum):
    PULL = "pull"
    COPY = "copy"


class TransferState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        return self in (TransferState.DONE, TransferState.FAILED, TransferState.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One file for one node. `source`: what is pulled, or the name of the node that sends now; "" while none does."""

    transfer_id: str
    kind: TransferKind
    state: TransferState
    model: ModelName
    node_id: NodeId
    node_name: str
    source: str = ""
    done_bytes: int = 0
    total_bytes: int | None = None
    bytes_per_s: float = 0.0
    detail: str = ""
    error: ClusterError | None = None
    """When it failed."""
    digest: str = ""
    """SHA-256 of the file, or of a folder's archive, 64 hex digits; "" while unknown."""
    on_demand: bool = False
    """The coordinator began it by itself, for requests that wait."""

    @property
    def share(self) -> float | None:
        """0-1; None while the size is unknown."""
        return None if not self.total_bytes else min(1.0, self.done_bytes / self.total_bytes)

    @property
    def left_s(self) -> float | None:
        """Seconds until the end at the present speed; None when nobody can tell."""
        if not self.total_bytes or self.bytes_per_s <= 0:
            return None
        return max(0, self.total_bytes - self.done_bytes) / self.bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchReport:
    """How a fetch goes, as the node that fetches tells it."""

    transfer_id: str
    state: TransferState
    done_bytes: int = 0
    total_bytes: int | None = None
    bytes_per_s: float = 0.0
    detail: str = ""
    error: ClusterError | None = None
    model: ModelName | None = None
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Consecutive bytes of a file. `piece_sha256` on the last chunk of a piece: the digest of the whole piece."""

    offset: int
    content: bytes
    piece_sha256: bytes = b""

    @property
    def end(self) -> int:
        return self.offset + len(self.content)


def bare_digest(digest: str) -> str:
    """64 hex digits of `sha256:…` or of a digest that is bare already; "" for anything else."""
    bare = digest.strip().lower().removeprefix("sha256:")
    return bare if len(bare) == 64 and all(letter in "0123456789abcdef" for letter in bare) else ""
