"""What the coordinator knows of its nodes, as `demand_choice` weighs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from chorus_proto.catalogue import shape_of
from chorus_proto.clock import Clock
from chorus_proto.errors import ErrorCode
from chorus_proto.ids import ModelName
from chorus_proto.load_time import expected_load_s
from chorus_proto.sizing import estimate
from chorus_proto.values import ModelFile, ReplicaState
from chorus_server.demand_choice import STAY_S, Refusal, Resident, Site
from chorus_server.loads import Loads
from chorus_server.node_record import NodeRecord, ReplicaRecord
from chorus_server.routing import DECODE_TOKENS_PER_S, PREFILL_TOKENS_PER_S, Need, promised_speed
from chorus_server.scoring import predict_rates


class Sites:
    """Reads records, reports and orders; changes nothing."""

    def __init__(self, loads: Loads, clock: Clock) -> None:
        self._loads = loads
        self._clock = clock

    def site(self, record: NodeRecord, model: ModelName, need: Need, requests: Mapping[ModelName, int]) -> Site:
        """The node as a place to load one of its models. `requests` counts by model who waits."""
        file = record.models[model]
        replica = record.replicas.get(model)
        needs = estimate(shape_of(file), file.file_bytes, self._loads.shape, record.device, file.engine)
        others = [
            name for name in {**record.replicas, **dict.fromkeys(self._loads.pending_on(record))} if name != model
        ]
        residents = (self._resident(record, name, requests.get(name, 0)) for name in others)
        return Site(
            node_id=record.node_id,
            node_name=record.name,
            needs=needs,
            needed_bytes=self._bytes(record, model) or needs.total_bytes,
            load_s=whole_load_s(record, model),
            answer_s=_answer_s(record, file, need),
            total_bytes=record.total_bytes,
            free_bytes=self._free_bytes(record, others),
            residents=tuple(resident for resident in residents if resident is not None),
            leaving=replica is not None and replica.report.state is ReplicaState.UNLOADING,
            refusal=self._refusal(record, file, replica),
        )

    def _refusal(self, record: NodeRecord, file: ModelFile, replica: ReplicaRecord | None) -> Refusal | None:
        if file.owners:
            return Refusal(code=ErrorCode.NO_REPLICA, words="leaves it to its owner to start it")
        if replica is not None and replica.report.state is ReplicaState.READY:
            return Refusal(code=ErrorCode.NO_REPLICA, words="has just failed this request with it")
        return self._loads.refusal(record, file.name)

    def _free_bytes(self, record: NodeRecord, others: Iterable[ModelName]) -> int | None:
        """Free now, less what loads have taken since the last heartbeat or have yet to take, plus what unloads hold."""
        free = record.free_bytes
        if free is None:
            return None
        for name in others:
            replica = record.replicas.get(name)
            held = 0 if replica is None else replica.report.resident_bytes or 0
            if replica is None or replica.report.state is ReplicaState.LOADING:
                free -= max(0, (self._bytes(record, name) or 0) - held)
            elif replica.report.state is ReplicaState.UNLOADING:
                free += held
            elif replica.ready_since_s is not None and replica.ready_since_s > record.beat_at_s:
                free -= self._bytes(record, name) or 0
        return free

    def _resident(self, record: NodeRecord, model: ModelName, waiting: int) -> Resident | None:
        replica = record.replicas.get(model)
        state = ReplicaState.LOADING if replica is None else replica.report.state
        if state not in (ReplicaState.LOADING, ReplicaState.READY):
            return None
        busy = 0 if replica is None else replica.slots_busy
        stays_s = 0.0
        if state is ReplicaState.LOADING and waiting and (replica is None or not replica.report.restarts):
            stays_s = STAY_S
        elif replica is not None and replica.ready_since_s is not None and (busy or waiting):
            stays_s = max(0.0, replica.ready_since_s + STAY_S - self._clock.monotonic_s())
        return Resident(
            model=model,
            resident_bytes=self._bytes(record, model) or 0,
            reload_s=whole_load_s(record, model),
            requests=busy + waiting,
            assigned=record.assigned == model,
            movable=replica is None or not replica.report.kept,
            stays_s=stays_s,
        )

    def _bytes(self, record: NodeRecord, model: ModelName) -> int | None:
        """What the model takes there: measured now or at the last such load, else expected; None: nobody knows."""
        known = record.footprints.get(model)
        report = record.replicas[model].report if model in record.replicas else None
        if report is not None and report.state is ReplicaState.READY and report.resident_bytes:
            return report.resident_bytes
        file = record.models.get(model)
        needs = (
            None
            if file is None
            else estimate(shape_of(file), file.file_bytes, self._loads.shape, record.device, file.engine)
        )
        alike = known and needs and (known.context_tokens, known.slots) == (needs.context_tokens, needs.slots)
        if known is not None and known.resident_bytes and alike:
            return known.resident_bytes
        told = None if report is None else report.expected_bytes or report.predicted_bytes
        return told or (None if needs is None else needs.total_bytes)


def whole_load_s(record: NodeRecord, model: ModelName) -> float:
    """Seconds of the last load there, else what reading the file is expected to take."""
    known = record.footprints.get(model)
    if known is not None and known.load_s is not None:
        return known.load_s
    file = record.models.get(model)
    return expected_load_s(0 if file is None else file.file_bytes)


def _answer_s(record: NodeRecord, file: ModelFile, need: Need) -> float:
    """Seconds to answer once loaded, at measured speeds where there are any, else at the predicted ones."""
    shape = shape_of(file)
    speed = promised_speed(record.score.score)
    prefill, decode = PREFILL_TOKENS_PER_S * speed, DECODE_TOKENS_PER_S * speed
    if shape is not None and file.file_bytes:
        predicted = predict_rates(record.hello.hardware, shape, file.file_bytes)
        prefill, decode = predicted.prefill_tokens_per_s, predicted.decode_tokens_per_s
    measured = record.rates.get(file.name)
    if measured is not None:
        prefill = measured.prefill_tokens_per_s or prefill
        decode = measured.decode_tokens_per_s or decode
    return need.prompt_tokens / prefill + need.expected_tokens / decode
