"""Embeddings of what the members of a council said, from whichever node has a model that makes them ready."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

import msgspec

from chorus_proto.cluster import Call, CallFinished, CallOutput
from chorus_proto.generation import Generation
from chorus_proto.ids import ModelName, new_request_id
from chorus_proto.values import Dialect, ReplicaState
from chorus_server.dispatch import Dispatcher
from chorus_server.likeness import Vector
from chorus_server.registry import Registry


class MemberEmbedder:
    """An `Embedder` through the dispatcher; never loads a model for it."""

    def __init__(self, registry: Registry, dispatcher: Dispatcher) -> None:
        self._registry = registry
        self._dispatcher = dispatcher

    async def __call__(self, texts: Sequence[str], *, within_s: float) -> Sequence[Vector] | None:
        """See `Embedder`. All from one node: two files of one name make vectors that cannot be compared."""
        model = self._ready_model()
        if model is None:
            return None
        # Answers are compared by their beginnings where they are longer than the model reads.
        call = Call(
            request_id=new_request_id(),
            model=model,
            dialect=Dialect.EMBEDDINGS,
            stream=False,
            generation=Generation(inputs=tuple(texts), cuts_inputs=True).encoded(),
            prompt_tokens_estimate=sum(map(len, texts)) // 3,
            within_s=within_s,
            max_tokens=1,
        )
        written = b""
        async with aclosing(self._dispatcher.run(call)) as events:
            async for event in events:
                if isinstance(event, CallOutput | CallFinished):
                    written += event.payload
        return [msgspec.json.decode(line, type=list[float]) for line in written.splitlines()]

    def _ready_model(self) -> ModelName | None:
        names = {
            name
            for record in self._registry.present()
            if record.takes_requests
            for name, replica in record.replicas.items()
            if replica.report.state is ReplicaState.READY and name in record.models and record.models[name].embedding
        }
        return min(names, default=None)
