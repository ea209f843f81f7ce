"""The coordinator's end of one agent's stream: orders go out, answers come back by execution number.

Frames of an execution that was given up find no entry and are dropped: numbers are never reused within an epoch, so
this is the fence against tokens of an old attempt.
"""

from __future__ import annotations

import logging

from chorus_proto import node_pb2
from chorus_proto.clock import Clock
from chorus_proto.cluster import Call, CallFinished, CallOutput
from chorus_proto.convert import dialect_number, of_timings, of_usage
from chorus_proto.errors import ClusterError, EngineFailed, NodeLost, QueueFull, SlowConsumer
from chorus_proto.frames import CONTROL_FRAME_BYTES, Mailbox, Outbox, Receipts, StreamClosed
from chorus_proto.ids import ExecutionId, ModelName, NodeId

log = logging.getLogger(__name__)


def _no_answers(_key: int, _payload: bytes, _tokens: int) -> node_pb2.CoordinatorFrame:
    raise AssertionError("the coordinator sends no answers to an agent")


LONGEST_MS = 2**32 - 1
WINDOWS_LIMIT = 4
"""An agent keeps to one window, and a half may be on its way back; one that sends so many ignores flow control."""


class Execution:
    """One attempt on one node. `take` gives its bytes as they come; `cancel` when nobody wants them any more."""

    def __init__(self, link: AgentLink, execution_id: ExecutionId, window_bytes: int) -> None:
        self.id = execution_id
        self._link = link
        self._window_bytes = window_bytes
        self._mailbox: Mailbox[CallOutput | CallFinished] = Mailbox()
        self._receipts = Receipts(window_bytes)
        self._unread_bytes = 0
        self._full_since_s: float | None = None
        self._ended = False

    def arrived(self, output: CallOutput | CallFinished, now_s: float) -> None:
        self._unread_bytes += len(output.payload)
        if self._unread_bytes > WINDOWS_LIMIT * self._window_bytes and not isinstance(output, CallFinished):
            self.give_up(EngineFailed("the node sent more than it was allowed to before its answer was read"))
            return
        # Up to half a window may have been read and not been credited yet.
        if self._unread_bytes >= self._window_bytes // 2 and self._full_since_s is None:
            self._full_since_s = now_s
        if isinstance(output, CallFinished):
            self._ended = True
        self._mailbox.put(output)

    def failed(self, error: ClusterError) -> None:
        self._ended = True
        self._mailbox.fail(error)

    def give_up(self, error: ClusterError) -> None:
        """Have `take` raise this, and tell the node to stop, unless the attempt has ended already."""
        if not self._ended:
            self._link.forget(self.id, tell_node=True)
            self.failed(error)

    def full_for_s(self, now_s: float) -> float:
        """How long the caller has read nothing although its whole window waits."""
        return 0.0 if self._full_since_s is None else now_s - self._full_since_s

    async def take(self) -> list[CallOutput | CallFinished]:
        """What arrived since the last take, bytes joined, `CallFinished` last; waits for it. Raises ClusterError."""
        items = _joined(await self._mailbox.take())
        read_bytes = sum(len(item.payload) for item in items)
        self._unread_bytes -= read_bytes
        self._full_since_s = None
        credit_bytes = self._receipts.read(read_bytes)
        if credit_bytes and not self._ended:
            self._link.credit(self.id, credit_bytes)
        return items

    def cancel(self) -> None:
        """Tell the node to stop, unless it has finished; nothing of this execution arrives any more."""
        self._link.forget(self.id, tell_node=not self._ended)
        self._ended = True


def _joined(items: list[CallOutput | CallFinished]) -> list[CallOutput | CallFinished]:
    if len(items) == 1:
        return items
    outputs = [item for item in items if isinstance(item, CallOutput)]
    joined: list[CallOutput | CallFinished] = []
    if outputs:
        joined.append(CallOutput(b"".join(item.payload for item in outputs), sum(item.tokens for item in outputs)))
    if isinstance(items[-1], CallFinished):
        joined.append(items[-1])
    return joined


class AgentLink:
    """Orders to one agent and the executions it works on."""

    def __init__(self, node_id: NodeId, node_name: str, clock: Clock, *, window_bytes: int) -> None:
        self.node_id = node_id
        self.node_name = node_name
        self.outbox: Outbox[node_pb2.CoordinatorFrame] = Outbox(_no_answers)
        self._clock = clock
        self._window_bytes = window_bytes
        self._executions: dict[int, Execution] = {}

    def execute(self, execution_id: ExecutionId, call: Call, *, attempt: int, remaining_s: float) -> Execution:
        """Start one attempt. Raises NodeLost when the link has just broken, QueueFull when it is clogged."""
        if not self.outbox.has_room(CONTROL_FRAME_BYTES + len(call.generation)):
            raise QueueFull(f"too many long requests are on their way to node {self.node_name}", retry_after_s=1)
        execution = Execution(self, execution_id, self._window_bytes)
        frame = node_pb2.CoordinatorFrame(
            execute=node_pb2.Execute(
                execution_id=execution_id,
                request_id=call.request_id,
                attempt=attempt,
                model=call.model,
                dialect=dialect_number(call.dialect),
                stream=call.stream,
                generation=call.generation,
                remaining_ms=min(LONGEST_MS, max(1, round(remaining_s * 1000))),
                created_unix_s=int(self._clock.unix_s()),
                window_bytes=self._window_bytes,
            )
        )
        try:
            self.outbox.put(frame, size_bytes=CONTROL_FRAME_BYTES + len(call.generation))
        except StreamClosed:
            raise NodeLost(f"node {self.node_name} went away") from None
        self._executions[execution_id] = execution
        return execution

    def load(
        self,
        model: ModelName,
        *,
        slots: int,
        context_tokens: int,
        keep_alive_s: float | None = None,
        retry: bool = False,
    ) -> None:
        """`keep_alive_s`: the agent frees it after so long without a use; None: it stays."""
        order = node_pb2.LoadModel(
            model=model, slots=slots, context_tokens=context_tokens, keep_alive_s=keep_alive_s, retry=retry
        )
        self._send(node_pb2.CoordinatorFrame(load=order))

    def unload(self, model: ModelName, *, drain_s: float) -> None:
        self._send(node_pb2.CoordinatorFrame(unload=node_pb2.UnloadModel(model=model, drain_ms=round(drain_s * 1000))))

    def remove(self, model: ModelName) -> None:
        """Delete the file of a model that came over the network."""
        self._send(node_pb2.CoordinatorFrame(remove=node_pb2.RemoveModel(model=model)))

    def fetch(
        self,
        transfer_id: str,
        model: ModelName,
        *,
        digest: str,
        file_bytes: int,
        source: str,
        ticket: str,
        folder: bool = False,
    ) -> None:
        """Bring a model onto the node's disk: from `source`, or over the stream that `ticket` opens.

        `folder`: it is the archive of a model folder.
        """
        order = node_pb2.FetchModel(
            transfer_id=transfer_id,
            model=model,
            digest=digest,
            file_bytes=file_bytes,
            source=source,
            ticket=ticket,
            folder=folder,
        )
        self._send(node_pb2.CoordinatorFrame(fetch=order))

    def send(self, transfer_id: str, model: ModelName, *, digest: str, offset: int, ticket: str) -> None:
        """Send the node's file with this digest over the stream that `ticket` opens."""
        order = node_pb2.SendModel(transfer_id=transfer_id, model=model, digest=digest, offset=offset, ticket=ticket)
        self._send(node_pb2.CoordinatorFrame(send=order))

    def cancel_fetch(self, transfer_id: str) -> None:
        self._send(node_pb2.CoordinatorFrame(cancel_fetch=node_pb2.CancelFetch(transfer_id=transfer_id)))

    def renew(self, sequence: int, lease_s: float) -> None:
        self._send(
            node_pb2.CoordinatorFrame(renewal=node_pb2.LeaseRenewal(sequence=sequence, lease_ms=round(lease_s * 1000)))
        )

    def say_goodbye(self, reason: str, *, reconnect_after_s: float) -> None:
        """Tell the agent that this coordinator stops, then close the stream once that has been written."""
        self._send(
            node_pb2.CoordinatorFrame(
                goodbye=node_pb2.CoordinatorGoodbye(reason=reason, reconnect_after_ms=round(reconnect_after_s * 1000))
            )
        )
        self.outbox.close()

    def credit(self, execution_id: ExecutionId, count_bytes: int) -> None:
        self._send(node_pb2.CoordinatorFrame(credit=node_pb2.Credit(execution_id=execution_id, bytes=count_bytes)))

    def forget(self, execution_id: ExecutionId, *, tell_node: bool) -> None:
        self._executions.pop(execution_id, None)
        if tell_node:
            self._send(node_pb2.CoordinatorFrame(cancel=node_pb2.Cancel(execution_id=execution_id)))

    def _send(self, frame: node_pb2.CoordinatorFrame) -> None:
        try:
            self.outbox.put(frame)
        except StreamClosed:
            # The stream's reader sees the same break and fails every execution with its reason.
            log.debug("node %s went away before a frame to it", self.node_name)

    def on_output(self, output: node_pb2.Output) -> None:
        execution = self._executions.get(output.execution_id)
        if execution is not None:
            execution.arrived(CallOutput(output.payload, output.tokens), self._clock.monotonic_s())

    def on_finished(self, finished: node_pb2.Finished) -> None:
        execution = self._executions.pop(finished.execution_id, None)
        if execution is not None:
            event = CallFinished(
                finish_reason=finished.finish_reason,
                usage=of_usage(finished.usage),
                timings=of_timings(finished.timings),
                payload=finished.payload,
            )
            execution.arrived(event, self._clock.monotonic_s())

    def on_failed(self, execution_id: int, error: ClusterError) -> None:
        execution = self._executions.pop(execution_id, None)
        if execution is not None:
            execution.failed(error)

    def cut_slow_callers(self, after_s: float) -> None:
        """Give up executions whose caller has read nothing for `after_s` while its window was full."""
        now_s = self._clock.monotonic_s()
        for execution in list(self._executions.values()):
            if execution.full_for_s(now_s) > after_s:
                execution.give_up(SlowConsumer(f"the caller read nothing for {after_s:g} s while the answer waited"))

    def broken(self, reason: str) -> None:
        """The agent is gone: every execution on it fails now."""
        self.outbox.close()
        for execution in self._executions.values():
            execution.failed(NodeLost(f"node {self.node_name} {reason} while it worked on this request"))
        self._executions.clear()

    @property
    def running(self) -> int:
        return len(self._executions)
