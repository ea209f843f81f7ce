"""Backends on CoordinatorService, to the values of `backends.py` and back."""

from __future__ import annotations

from chorus_proto import coordinator_pb2
from chorus_proto.backends import Backend, BackendHealth, BackendState, NewBackend
from chorus_proto.ids import ModelName, NodeId


def new_backend_message(wish: NewBackend) -> coordinator_pb2.RegisterBackendRequest:
    return coordinator_pb2.RegisterBackendRequest(
        name=wish.name,
        url=wish.url,
        models=list(wish.models),
        model_type=wish.model_type,
        # What no wire number holds is out of range on both sides of it.
        slots=None if wish.slots is None else max(0, min(wish.slots, 2**32 - 1)),
        api_key=wish.api_key,
        weight=wish.weight,
    )


def of_new_backend(message: coordinator_pb2.RegisterBackendRequest) -> NewBackend:
    return NewBackend(
        name=message.name,
        url=message.url,
        models=tuple(ModelName(model) for model in message.models),
        model_type=message.model_type,
        slots=message.slots if message.HasField("slots") else None,
        api_key=message.api_key,
        weight=message.weight if message.HasField("weight") else None,
    )


def backend_message(backend: Backend) -> coordinator_pb2.Backend:
    health = backend.health
    return coordinator_pb2.Backend(
        node_id=backend.node_id,
        name=backend.name,
        url=backend.url,
        model_type=backend.model_type,
        slots=backend.slots,
        created_unix_s=backend.created_unix_s,
        state=health.state,
        detail=health.detail,
        models=list(health.models),
        probe_age_s=health.probe_age_s,
        weight=backend.weight,
    )


def of_backend(message: coordinator_pb2.Backend) -> Backend:
    """A state of a newer version counts as unhealthy."""
    known = {state.value for state in BackendState}
    return Backend(
        node_id=NodeId(message.node_id),
        name=message.name,
        url=message.url,
        model_type=message.model_type,
        slots=message.slots if message.HasField("slots") else None,
        created_unix_s=message.created_unix_s,
        health=BackendHealth(
            state=BackendState(message.state) if message.state in known else BackendState.UNHEALTHY,
            detail=message.detail,
            models=tuple(ModelName(model) for model in message.models),
            probe_age_s=message.probe_age_s if message.HasField("probe_age_s") else None,
        ),
        weight=message.weight if message.HasField("weight") else None,
    )
