"""Which model a chat is answered by, and which one names it. Pure."""

from __future__ import annotations

from chorus_http.state import council_context_tokens, find_council
from chorus_proto.catalogue import closest, normalised
from chorus_proto.errors import ModelNotFound, NoReplica
from chorus_proto.ids import ModelName
from chorus_proto.values import ClusterState


def model_to_ask(state: ClusterState, wanted: str | None) -> tuple[ModelName, int]:
    """The model or council of that name, or without one the largest model that is ready; with its context in tokens.

    The context is 0 where it is not known; a council has that of the least of the models that are ready. Raises
    ModelNotFound for a model that is gone, saying what the chat can go on with, and NoReplica.
    """
    chat = [model for model in state.models if not model.embedding]
    if wanted is None:
        ready = [model for model in chat if model.ready_on]
        if not ready:
            raise NoReplica("No model is ready to chat; GET /status shows what is loading.", retry_after_s=5)
        best = max(ready, key=lambda model: (model.parameters, model.file_bytes, model.name))
        return best.name, best.context_tokens
    if (council := find_council(state, wanted)) is not None:
        return council.name, council_context_tokens(state)
    for model in chat:
        if normalised(model.name) == normalised(wanted):
            return model.name, model.context_tokens
    names = [*sorted(model.name for model in chat), *(council.name for council in state.councils)]
    others = closest(wanted, names) or names[:5]
    raise ModelNotFound(
        f"The model '{wanted[:256]}' of this chat is on no PC any more. Nothing is lost: choose another with "
        f'PATCH /chat/sessions/ID {{"model": ...}}. There are: {", ".join(others) or "none"}.',
        param="model",
    )


def model_for_titles(state: ClusterState) -> ModelName:
    """The smallest that is ready. Raises NoReplica."""
    ready = [model for model in state.models if model.ready_on and not model.embedding]
    if not ready:
        raise NoReplica("No model is ready to make a title.", retry_after_s=5)
    return min(ready, key=lambda model: (model.parameters, model.file_bytes, model.name)).name
