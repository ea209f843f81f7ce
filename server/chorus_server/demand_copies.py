"""Copies on demand: a model that is wanted and fits on no node that has it is brought to one where it does fit.

Only for want of memory: what a node refuses for another reason (a crash, a damaged file) it would refuse anywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from chorus_proto.catalogue import shape_of
from chorus_proto.clock import Clock
from chorus_proto.errors import ClusterError, ErrorCode
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.sizing import estimate
from chorus_proto.transfers import Transfer, TransferState
from chorus_proto.values import ModelFile
from chorus_server.copy_flow import sends
from chorus_server.demand_choice import Refusal
from chorus_server.loads import Loads
from chorus_server.node_record import NodeRecord
from chorus_server.registry import Registry
from chorus_server.transfer_choice import Taker, best_taker
from chorus_server.transfers import Transfers, takes_models

log = logging.getLogger(__name__)

REST_S = 600.0
"""After a copy that failed, the same model is brought to the same node no sooner than this."""


class DemandCopies:
    """Begins copies for those who wait; `enabled` False: never."""

    def __init__(self, registry: Registry, loads: Loads, transfers: Transfers, clock: Clock, *, enabled: bool) -> None:
        self._registry = registry
        self._loads = loads
        self._transfers = transfers
        self._clock = clock
        self._enabled = enabled
        self._failed: dict[tuple[NodeId, ModelName], tuple[float, Refusal]] = {}

    def ended(self, transfer: Transfer) -> None:
        """A transfer is over, one way or the other."""
        error = transfer.error
        if transfer.on_demand and transfer.state is TransferState.FAILED and error is not None:
            self._rest(transfer.node_id, transfer.model, error)

    def _rest(self, node_id: NodeId, model: ModelName, error: ClusterError) -> None:
        refusal = Refusal(code=error.code, words=f"could not get a copy: {error.message}")
        self._failed[node_id, model] = (self._clock.monotonic_s() + REST_S, refusal)

    def refusals(self, model: ModelName) -> list[tuple[str, Refusal]]:
        """The nodes that could not get it, by name."""
        self._forget_rested()
        found: list[tuple[str, Refusal]] = []
        for record in self._registry.present():
            failed = self._failed.get((record.node_id, model))
            if failed is not None:
                found.append((record.name, failed[1]))
        return found

    def _forget_rested(self) -> None:
        now_s = self._clock.monotonic_s()
        self._failed = {key: one for key, one in self._failed.items() if one[0] > now_s}

    def under_way(self, model: ModelName) -> list[Transfer]:
        """Copies and pulls of it to any node, whoever began them."""
        return self._transfers.running_of(model)

    def could(self, model: ModelName, refused: Sequence[tuple[str, Refusal]]) -> bool:
        """Whether a copy runs or could begin. `refused`: what the nodes that have it say."""
        return bool(self.under_way(model)) or self._choice(model, refused) is not None

    def begin(self, model: ModelName, refused: Sequence[tuple[str, Refusal]]) -> bool:
        """Begin a copy unless one runs; False when there is nobody to bring it to."""
        if self.under_way(model):
            return True
        choice = self._choice(model, refused)
        if choice is None:
            return False
        file, record = choice
        log.info("node %s gets a copy of %s: it fits on no node that has it", record.name, model)
        try:
            self._transfers.begin_copy(file, record)
        except ClusterError as error:
            self._rest(record.node_id, model, error)
            return False
        return True

    def _choice(self, model: ModelName, refused: Sequence[tuple[str, Refusal]]) -> tuple[ModelFile, NodeRecord] | None:
        if not self._enabled or not refused:
            return None
        if any(refusal.code is not ErrorCode.INSUFFICIENT_MEMORY for _, refusal in refused):
            return None
        file = self._file(model)
        if file is None:
            return None
        self._forget_rested()
        records = {
            record.node_id: record
            for record in self._registry.present()
            if takes_models(record, file.engine)
            and model not in record.models
            and (record.node_id, model) not in self._failed
        }
        needed = {node_id: self._needed_bytes(file, record) for node_id, record in records.items()}
        takers = [
            Taker(
                node_id=node_id,
                score=record.score.score,
                receiving=len(self._transfers.running_to(record)),
                memory_bytes=record.total_bytes,
            )
            for node_id, record in records.items()
        ]
        best = best_taker(takers, needed_bytes=needed)
        return None if best is None else (file, records[best.node_id])

    def _file(self, model: ModelName) -> ModelFile | None:
        """The file that a node could send."""
        for record in self._registry.present():
            file = record.models.get(model)
            if file is not None and sends(record, file) and not file.owners:
                return file
        return None

    def _needed_bytes(self, file: ModelFile, record: NodeRecord) -> int:
        return estimate(shape_of(file), file.file_bytes, self._loads.shape, record.device, file.engine).total_bytes

    def words(self, model: ModelName) -> list[str]:
        """What goes on, for people: `cellar gets it from attic: 40%`."""
        return [_words(transfer) for transfer in self.under_way(model)]


def _words(transfer: Transfer) -> str:
    where = f" from {transfer.source}" if transfer.source else ""
    share = "it has just begun" if transfer.share is None else f"{transfer.share:.0%}"
    left = "" if transfer.left_s is None else f", {transfer.left_s:.0f} s left"
    return f"{transfer.node_name} gets it{where}: {share}{left}"
