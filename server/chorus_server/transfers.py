"""Models on their way to nodes' disks: pulled from the internet by the node itself, or copied from another node.

The coordinator chooses who sends, relays the bytes (agents reach nobody but it), and asks another node when a sender
corrupts, stalls or dies: the receiver goes on from its last verified piece. A model is pulled only when no node has it.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable
from typing import Protocol

from chorus_proto.catalogue import closest, normalised
from chorus_proto.clock import Clock
from chorus_proto.errors import (
    Cancelled,
    ClusterError,
    InvalidRequest,
    ModelNotFound,
    NodeLost,
    NoNodes,
    NoReplica,
    NotFound,
    QueueFull,
    TransferFailed,
    Unsupported,
)
from chorus_proto.ids import ModelName
from chorus_proto.model_source import checked_sha256, parse_source, shown_source
from chorus_proto.transfers import FEATURE, FetchReport, Transfer, TransferKind, TransferState, bare_digest
from chorus_proto.values import EngineKind, ModelFile
from chorus_server.copy_flow import CopyFlow, TransferRules, copied_bytes, digest_of, feature_for, is_folder, sends
from chorus_server.node_record import NodeRecord
from chorus_server.registry import Registry
from chorus_server.relay import Throttle
from chorus_server.transfer_job import Job

log = logging.getLogger(__name__)

RUNNING_LIMIT = 64
KEPT_LIMIT = 64
"""Transfers that are over and still listed."""


class TransferListener(Protocol):
    def __call__(self, transfer: Transfer) -> None:
        """A transfer began or is over."""
        ...


class Transfers:
    """All transfers of this coordinator's run. Methods return at once; `sweep` is called a few times a second."""

    def __init__(self, registry: Registry, clock: Clock, rules: TransferRules, tell: TransferListener) -> None:
        self._registry = registry
        self._clock = clock
        self._rules = rules
        self._tell = tell
        self._throttle = Throttle(rules.bytes_per_s_limit, clock)
        self._jobs: dict[str, Job] = {}
        self.flow = CopyFlow(registry, clock, rules, self._running, self._fail)

    # Verbs --------------------------------------------------------------------------------------------------------

    def pull(self, source: str, *, node: str = "", sha256: str = "") -> Transfer:
        """See `Cluster.pull_model`."""
        wanted, digest = parse_source(source), checked_sha256(sha256)
        record = self._registry.find(node) if node else self._ablest()
        self._require_able(record)
        here = _file(record, wanted.name)
        if here is not None and digest in ("", bare_digest(here.digest)):
            return self._is_there(TransferKind.PULL, record, here)
        if here is not None:
            raise InvalidRequest(f"node {record.name} has another model called {wanted.name}", param="sha256")
        held = self._held(wanted.name, EngineKind.LLAMA_SERVER, besides=record, digest=digest)
        if held is not None:
            return self._copy(held, record)
        return self._begin(
            Transfer(
                transfer_id=_new_id(),
                kind=TransferKind.PULL,
                state=TransferState.WAITING,
                model=wanted.name,
                node_id=record.node_id,
                node_name=record.name,
                source=shown_source(source),
                digest=digest,
            ),
            record,
            pull=source,
            waits_for=self._pulled_elsewhere(wanted.name, record, digest),
        )

    def copy(self, model: str, *, to: str) -> Transfer:
        """See `Cluster.copy_model`."""
        record = self._registry.find(to)
        self._require_able(record)
        known = {name for one in self._registry.present() for name in one.models}
        wanted = next((name for name in known if name == model), normalised(model))
        here = _file(record, wanted)
        if here is not None:
            return self._is_there(TransferKind.COPY, record, here)
        files = [one for other in self._registry.present() if (one := _file(other, wanted)) is not None]
        if not files:
            near = closest(model, known)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ModelNotFound(f"model {model!r} is on no node{hint}", param="model")
        held = self._held(wanted, EngineKind.LLAMA_SERVER, besides=record)
        if held is None and takes_models(record, EngineKind.TRANSFORMERS):
            held = self._held(wanted, EngineKind.TRANSFORMERS, besides=record)
        if held is not None:
            return self._copy(held, record)
        raise self._why_not(wanted, files, record)

    @staticmethod
    def _why_not(name: ModelName, files: Iterable[ModelFile], record: NodeRecord) -> Unsupported | NoReplica:
        """Why a model that is on other nodes cannot be copied to this one."""
        kinds = {file.engine for file in files if feature_for(file.engine) is not None}
        if not kinds:
            return Unsupported(f"model {name} is no GGUF file and no model folder of a node, and only those are copied")
        if kinds == {EngineKind.TRANSFORMERS} and not takes_models(record, EngineKind.TRANSFORMERS):
            return Unsupported(
                f"model {name} is a Hugging Face folder, and node {record.name} cannot use one: its agent needs the "
                "engine transformers, and this version of Chorus or a later one"
            )
        return NoReplica(f"the digest of model {name} is not known yet: its node is still reading it", retry_after_s=30)

    def begin_copy(self, file: ModelFile, record: NodeRecord) -> Transfer:
        """For requests that wait: bring this very file to the node."""
        return self._copy(file, record, on_demand=True)

    def list(self) -> tuple[Transfer, ...]:
        """Newest last."""
        return tuple(job.transfer for job in self._jobs.values())

    def cancel(self, transfer_id: str) -> Transfer:
        """See `Cluster.cancel_transfer`."""
        job = self._jobs.get(transfer_id)
        if job is None:
            raise NotFound(f"there is no transfer {transfer_id!r}", param="transfer_id")
        if not job.is_over:
            self._cancel_fetch(job)
            self._end(job, TransferState.CANCELLED, error=Cancelled("the transfer was cancelled; what came is kept"))
        return job.transfer

    def _cancel_fetch(self, job: Job) -> None:
        record = self._registry.get(job.transfer.node_id)
        if record is not None and record.link is not None:
            record.link.cancel_fetch(job.transfer.transfer_id)

    # Facts --------------------------------------------------------------------------------------------------------

    def running_to(self, record: NodeRecord) -> list[Transfer]:
        return [job.transfer for job in self._running() if job.transfer.node_id == record.node_id]

    def running_of(self, model: ModelName) -> list[Transfer]:
        return [job.transfer for job in self._running() if job.transfer.model == model]

    def _running(self) -> Iterable[Job]:
        return [job for job in self._jobs.values() if not job.is_over]

    def _ablest(self) -> NodeRecord:
        """Raises NoNodes."""
        able = [one for one in self._registry.present() if takes_models(one)]
        if not able:
            raise NoNodes("no node is connected that can take a GGUF model; name one with --node", retry_after_s=5)
        return min(able, key=lambda one: (len(self.running_to(one)), -one.score.score, one.node_id))

    @staticmethod
    def _require_able(record: NodeRecord) -> None:
        if not record.takes_work:
            raise NodeLost(f"node {record.name} is {record.state}: nothing can be sent to it now")
        if FEATURE not in record.hello.features:
            raise Unsupported(
                f"the agent of node {record.name} (Chorus {record.hello.version}) takes no models; upgrade"
            )

    def _held(self, name: ModelName, engine: EngineKind, *, besides: NodeRecord, digest: str = "") -> ModelFile | None:
        """The model of this engine that another node could send under this name."""
        for other in self._registry.present():
            file = _file(other, name)
            if other is besides or file is None or file.engine is not engine or not sends(other, file):
                continue
            if digest in ("", bare_digest(file.digest)):
                return file
        return None

    # Life of a transfer -------------------------------------------------------------------------------------------

    def _is_there(self, kind: TransferKind, record: NodeRecord, file: ModelFile) -> Transfer:
        return Transfer(
            transfer_id=_new_id(),
            kind=kind,
            state=TransferState.DONE,
            model=file.name,
            node_id=record.node_id,
            node_name=record.name,
            done_bytes=copied_bytes(file) or file.file_bytes,
            total_bytes=copied_bytes(file) or file.file_bytes,
            detail="was there already",
            digest=digest_of(file),
        )

    def _copy(self, file: ModelFile, record: NodeRecord, *, on_demand: bool = False) -> Transfer:
        return self._begin(
            Transfer(
                transfer_id=_new_id(),
                kind=TransferKind.COPY,
                state=TransferState.WAITING,
                model=file.name,
                node_id=record.node_id,
                node_name=record.name,
                total_bytes=copied_bytes(file),
                digest=digest_of(file),
                on_demand=on_demand,
            ),
            record,
            folder=is_folder(file),
        )

    def _pulled_elsewhere(self, name: ModelName, record: NodeRecord, digest: str) -> Job | None:
        """Another node's download of the same: the internet is asked once."""
        for job in self._running():
            same = job.transfer.model == name and (not digest or job.transfer.digest in ("", digest))
            if job.pull and job.waits_for is None and same and job.transfer.node_id != record.node_id:
                return job
        return None

    def _begin(
        self,
        transfer: Transfer,
        record: NodeRecord,
        *,
        pull: str = "",
        folder: bool = False,
        waits_for: Job | None = None,
    ) -> Transfer:
        """Order it, or join the same one that is under way.

        Raises QueueFull, and InvalidRequest when that one is not checked against the digest that is asked for.
        """
        for job in self._running():
            if job.transfer.node_id == record.node_id and job.transfer.model == transfer.model:
                if pull and transfer.digest not in ("", job.transfer.digest):
                    raise InvalidRequest(
                        f"a transfer of {transfer.model} to node {record.name} is under way that is not checked "
                        f"against this checksum; wait for its end, or: chorus models cancel {job.transfer.transfer_id}",
                        param="sha256",
                    )
                return job.transfer
        if sum(1 for _ in self._running()) >= RUNNING_LIMIT:
            raise QueueFull(f"{RUNNING_LIMIT} transfers are under way; try again later", retry_after_s=60)
        job = Job(transfer, self._clock, self._throttle, pull=pull, folder=folder)
        self._jobs[transfer.transfer_id] = job
        self._forget_old()
        if waits_for is not None:
            job.waits_for = waits_for
            job.change(detail=f"waits for node {waits_for.transfer.node_name}, which downloads it")
            self._tell(job.transfer)
            return job.transfer
        log.info(
            "node %s fetches %s %s",
            record.name,
            transfer.model,
            f"from {transfer.source}" if pull else "from another node",
        )
        self._order(job, record)
        self._tell(job.transfer)
        return job.transfer

    def _order(self, job: Job, record: NodeRecord) -> None:
        transfer = job.transfer
        assert record.link is not None, "only nodes that take work are given orders"
        job.change(detail=f"node {record.name} was told to fetch it")
        job.waiting_since_s = self._clock.monotonic_s()
        record.link.fetch(
            transfer.transfer_id,
            transfer.model,
            digest=transfer.digest,
            file_bytes=0 if job.pull else transfer.total_bytes or 0,
            source=job.pull,
            ticket="" if job.pull else job.receive_ticket,
            folder=job.folder,
        )

    def _end(self, job: Job, state: TransferState, *, detail: str = "", error: ClusterError | None = None) -> None:
        if job.is_over:
            return
        job.end(state, detail=detail, error=error)
        transfer = job.transfer
        words = "" if error is None else f": {error.message}"
        log.info("transfer of %s to node %s is %s%s", transfer.model, transfer.node_name, state, words)
        self._tell(transfer)

    def _forget_old(self) -> None:
        over = [transfer_id for transfer_id, job in self._jobs.items() if job.is_over]
        for transfer_id in over[: max(0, len(over) - KEPT_LIMIT)]:
            del self._jobs[transfer_id]

    # What agents say ----------------------------------------------------------------------------------------------

    def joined(self, record: NodeRecord) -> None:
        """A node has a new link: what it is to fetch is ordered again; an agent that still does it goes on."""
        for job in self._running():
            if job.transfer.node_id == record.node_id and job.waits_for is None:
                self._order(job, record)

    def reported(self, record: NodeRecord, report: FetchReport) -> None:
        job = self._jobs.get(report.transfer_id)
        if job is None or job.is_over or job.transfer.node_id != record.node_id:
            return
        if not report.state.is_over:
            job.told(report)
            self.flow.learn_speed(job, report.bytes_per_s)
            return
        if report.state is TransferState.DONE:
            job.told(report)
            job.change(digest=bare_digest(report.digest) or job.transfer.digest)
            self._end(job, TransferState.DONE)
            return
        error = report.error or TransferFailed("the node gave no reason")
        self._end(job, report.state, error=error)

    # Time ---------------------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Find who stalls, who is gone, and who has come."""
        for job in self._running():
            if job.is_copy:
                self.flow.look(job)
            else:
                self._look_at_pull(job)

    def _look_at_pull(self, job: Job) -> None:
        record = self._registry.get(job.transfer.node_id)
        if record is not None and record.link is not None:
            job.waiting_since_s = self._clock.monotonic_s()
            if job.waits_for is not None and job.waits_for.is_over and record.takes_work:
                self._go_on_after(job, record)
        elif self._clock.monotonic_s() - job.waiting_since_s > self._rules.back_within_s:
            self._end(job, TransferState.FAILED, error=NodeLost(f"node {job.transfer.node_name} did not come back"))

    def _go_on_after(self, job: Job, record: NodeRecord) -> None:
        """The other node's download is over: copy what it got, or download it after all."""
        job.waits_for = None
        held = self._held(job.transfer.model, EngineKind.LLAMA_SERVER, besides=record, digest=job.transfer.digest)
        if held is not None:
            job.become_copy(digest=digest_of(held), total_bytes=held.file_bytes)
        self._order(job, record)

    def _fail(self, job: Job, error: ClusterError) -> None:
        self._cancel_fetch(job)
        self._end(job, TransferState.FAILED, error=error)


def takes_models(record: NodeRecord, engine: EngineKind = EngineKind.LLAMA_SERVER) -> bool:
    """Whether a model of this engine, by default a GGUF file, can be brought there and used."""
    hello = record.hello
    return record.takes_requests and feature_for(engine) in hello.features and engine in hello.engines


def _file(record: NodeRecord, name: ModelName) -> ModelFile | None:
    return next((file for known, file in record.models.items() if normalised(known) == normalised(name)), None)


def _new_id() -> str:
    return secrets.token_hex(6)
