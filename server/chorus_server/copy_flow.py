"""How a copy flows: who sends, what happens when a sender corrupts, stalls or dies, and when nobody is left to ask.

The receiver's stream stays while senders change beneath it; each begins where the receiver last verified.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from chorus_proto.clock import Clock
from chorus_proto.errors import ClusterError, InvalidRequest, NotFound, TransferFailed
from chorus_proto.transfers import FEATURE, FOLDER_FEATURE, bare_digest
from chorus_proto.values import EngineKind, ModelFile
from chorus_server.node_record import NodeRecord
from chorus_server.registry import Registry
from chorus_server.settings import CoordinatorSettings
from chorus_server.transfer_choice import Sender, best_sender
from chorus_server.transfer_job import UNVERIFIED_BYTES, Job, Source, new_ticket

log = logging.getLogger(__name__)

SENDER_FAILURES = 3
"""A sender that failed so often in one transfer, without sending anything wrong, is not asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRules:
    """`stall_s`: longest pause of a sender or a receiver. `back_within_s`: longest wait for a node that is away."""

    stall_s: float = 15.0
    back_within_s: float = 120.0
    bytes_per_s_limit: int = 0


def transfer_rules(settings: CoordinatorSettings) -> TransferRules:
    return TransferRules(
        stall_s=settings.copy_stall_s,
        back_within_s=settings.copy_wait_s,
        bytes_per_s_limit=settings.copy_bytes_per_s_limit,
    )


class CopyFlow:
    """The copies among the jobs that run. `fail` ends one; nothing here waits."""

    def __init__(
        self,
        registry: Registry,
        clock: Clock,
        rules: TransferRules,
        running: Callable[[], Iterable[Job]],
        fail: Callable[[Job, ClusterError], None],
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._rules = rules
        self._running = running
        self._fail = fail
        self._speeds: dict[str, float] = {}

    def learn_speed(self, job: Job, bytes_per_s: float) -> None:
        """The receiver says how fast it comes."""
        if job.source is not None and bytes_per_s > 0:
            self._speeds[job.source.node_id] = bytes_per_s

    def _senders(self, job: Job) -> list[Sender]:
        sending = [other.source.node_id for other in self._running() if other.source is not None]
        return [
            Sender(
                node_id=one.node_id,
                name=one.name,
                sending=sending.count(one.node_id),
                requests=0 if one.link is None else one.link.running,
                failures=len(job.failures.get(one.node_id, [])),
                bytes_per_s=self._speeds.get(one.node_id),
            )
            for one in self._registry.present()
            if one.node_id != job.transfer.node_id
            and one.node_id not in job.wrong
            and any(sends(one, file) and digest_of(file) == job.transfer.digest for file in one.models.values())
        ]

    def opened(self, ticket: str, offset: int) -> tuple[Job, Source | None]:
        """Whose stream this is: a job's sender, or with None its receiver. Raises NotFound for no ticket of ours."""
        for job in self._running():
            if job.is_copy and secrets.compare_digest(ticket.encode(), job.receive_ticket.encode()):
                if not 0 <= offset <= (job.transfer.total_bytes or 0):
                    raise InvalidRequest(f"nothing begins at byte {offset}", param="offset")
                job.receiver_opened(offset)
                self._next_source(job)
                return job, None
            source = job.source
            if source is not None and secrets.compare_digest(ticket.encode(), source.ticket.encode()):
                source.idle_since_s = self._clock.monotonic_s()
                return job, source
        raise NotFound("no transfer waits for this ticket", param="ticket")

    def receiver_gone(self, job: Job) -> None:
        """Its stream ended before the transfer did: its agent opens another one, from where it is then."""
        if not job.is_over:
            job.receiver_open = False
            job.waiting_since_s = self._clock.monotonic_s()
            job.drop_source()

    def source_gone(self, job: Job, source: Source, error: ClusterError | None) -> None:
        """Its stream ended: with everything sent that is right, before that it is a failure."""
        total_bytes = job.transfer.total_bytes or 0
        if job.source is source and (error is not None or source.sent_end < total_bytes):
            self._give_up(job, "broke off" if error is None else f"said: {error.message}")

    def rejected(self, job: Job, offset: int, error: ClusterError) -> None:
        """The receiver says that the bytes are wrong; with `offset` 0, that the whole file was."""
        source = job.source
        job.stands_at(offset)
        if source is None:
            return
        if offset or not job.contributors - {source.node_id}:
            job.wrong.add(source.node_id)
        # Else one of several lied, and nobody knows who: the whole comes anew from somebody else.
        if not offset:
            job.contributors.clear()
        self._give_up(job, f"sent wrong bytes: {error.message}")

    def _give_up(self, job: Job, why: str) -> None:
        """Whoever sends has failed: somebody else goes on."""
        source = job.source
        if source is None:
            return
        log.warning("transfer of %s to %s: node %s %s", job.transfer.model, job.transfer.node_name, source.name, why)
        job.failures.setdefault(source.node_id, []).append(f"{source.name} {why}")
        job.last_failed = source.node_id
        job.drop_source()
        job.waiting_since_s = self._clock.monotonic_s()
        self._next_source(job)

    def _next_source(self, job: Job) -> None:
        """Tell the best node to send, if there is one now."""
        if job.is_over or not job.receiver_open or job.verified >= (job.transfer.total_bytes or 0):
            return
        senders = [one for one in self._senders(job) if one.failures < SENDER_FAILURES]
        chosen = best_sender(senders, not_first=job.last_failed)
        record = None if chosen is None else self._registry.find(chosen.node_id)
        if chosen is None or record is None or record.link is None:
            job.change(source="", detail="waits for a node that has it")
            return
        now_s = self._clock.monotonic_s()
        job.source = Source(chosen.node_id, chosen.name, new_ticket(), now_s)
        job.change(source=chosen.name)
        log.info(
            "node %s sends %s to %s from byte %d", chosen.name, job.transfer.model, job.transfer.node_name, job.verified
        )
        record.link.send(
            job.transfer.transfer_id,
            job.transfer.model,
            digest=job.transfer.digest,
            offset=job.verified,
            ticket=job.source.ticket,
        )

    def look(self, job: Job) -> None:
        now_s, stall_s, source = self._clock.monotonic_s(), self._rules.stall_s, job.source
        if source is not None:
            if job.full_since_s is not None and now_s - job.full_since_s > stall_s:
                self._fail(job, TransferFailed(f"node {job.transfer.node_name} took nothing for {stall_s:g} s"))
            elif source.idle_since_s is not None and now_s - source.idle_since_s > stall_s:
                self._give_up(job, f"sent nothing for {stall_s:g} s")
            elif source.unverified_bytes > UNVERIFIED_BYTES:
                self._give_up(job, "sent bytes that make no piece")
            elif not any(one.node_id == source.node_id for one in self._senders(job)):
                self._give_up(job, "went away, or has the file no more")
            return
        if job.receiver_open and job.verified < (job.transfer.total_bytes or 0):
            self._next_source(job)
            if job.source is not None:
                return
        hopeless = job.receiver_open and not any(one.failures < SENDER_FAILURES for one in self._may_come(job))
        if hopeless or self._waited_s(job) > self._rules.back_within_s:
            reasons = "; ".join(words[-1] for words in job.failures.values()) or (
                "nobody sends" if job.receiver_open else f"node {job.transfer.node_name} did not begin"
            )
            self._fail(job, TransferFailed(f"model {job.transfer.model} did not arrive whole: {reasons}"))

    def _may_come(self, job: Job) -> list[Sender]:
        """Who sends, or could after its link is back."""
        away = [
            Sender(node_id=one.node_id, name=one.name, failures=len(job.failures.get(one.node_id, [])))
            for one in self._registry.present()
            if not one.takes_work and one.node_id != job.transfer.node_id and one.node_id not in job.wrong
            if any(digest_of(file) == job.transfer.digest for file in one.models.values())
        ]
        return self._senders(job) + away

    def _waited_s(self, job: Job) -> float:
        return self._clock.monotonic_s() - job.waiting_since_s


def sends(record: NodeRecord, file: ModelFile) -> bool:
    able = record.takes_requests and feature_for(file.engine) in record.hello.features
    return able and copied_bytes(file) > 0 and bool(digest_of(file))


def feature_for(engine: EngineKind) -> str | None:
    """What agents say that send and take models of this engine; None for one whose models are not copied."""
    return {EngineKind.LLAMA_SERVER: FEATURE, EngineKind.TRANSFORMERS: FOLDER_FEATURE}.get(engine)


def is_folder(file: ModelFile) -> bool:
    """Whether it travels as an archive."""
    return file.engine is EngineKind.TRANSFORMERS


def digest_of(file: ModelFile) -> str:
    """Of what travels: the file, or the folder's archive."""
    return bare_digest(file.copy_digest if is_folder(file) else file.digest)


def copied_bytes(file: ModelFile) -> int:
    """The length of what travels."""
    return file.copy_bytes if is_folder(file) else file.file_bytes
