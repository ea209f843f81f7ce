from __future__ import annotations

import dataclasses

import pytest

from chorus_proto.backends import Backend, BackendHealth, BackendState, NewBackend
from chorus_proto.convert_backends import backend_message, new_backend_message, of_backend, of_new_backend
from chorus_proto.convert_keys import key_message, new_key_message, of_key, of_new_key
from chorus_proto.errors import InvalidRequest
from chorus_proto.generation import ThoughtField
from chorus_proto.ids import ModelName, NodeId
from chorus_proto.keys import ApiKey, KeyId, NewKey, Scope

KEY = ApiKey(
    key_id=KeyId("01234567"),
    name="ann",
    owner="lab",
    scopes=(Scope.INFER, Scope.ADMIN),
    created_unix_s=1.5,
    expires_unix_s=2.5,
    last_used_unix_s=3.5,
    revoked_unix_s=4.5,
    requests_per_minute=5,
    parallel=6,
    tokens_per_day=7,
    tokens_today=8,
    trusted=True,
    thought_field=ThoughtField.REASONING,
)
WISH = NewKey(
    name="ann",
    scopes=(Scope.CHAT,),
    owner="lab",
    expires_in_s=60.0,
    requests_per_minute=5,
    parallel=6,
    tokens_per_day=7,
    trusted=True,
    thought_field=ThoughtField.NONE,
)
BACKEND = Backend(
    node_id=NodeId("n1"),
    name="attic",
    url="http://x:1",
    model_type="gemma3",
    slots=4,
    created_unix_s=1.5,
    health=BackendHealth(
        state=BackendState.EJECTED, detail="why", models=(ModelName("a"), ModelName("b")), probe_age_s=2.5
    ),
    weight=0.5,
)
NEW_BACKEND = NewBackend(
    name="attic", url="http://x:1", models=(ModelName("a"),), model_type="gemma3", slots=4, api_key="sk-1", weight=2.5
)


def without_defaults(value: object) -> list[str]:
    """Names of the fields that a sample leaves at their default: each must be told apart from a lost one."""
    assert dataclasses.is_dataclass(value)
    return [
        field.name
        for field in dataclasses.fields(value)
        if field.default is not dataclasses.MISSING and getattr(value, field.name) == field.default
    ]


def test_every_field_survives_the_wire() -> None:
    for sample in (KEY, WISH, BACKEND, BACKEND.health, NEW_BACKEND):
        assert without_defaults(sample) == [], sample
    assert of_key(key_message(KEY)) == KEY
    assert of_new_key(new_key_message(WISH)) == WISH
    assert of_backend(backend_message(BACKEND)) == BACKEND
    assert of_new_backend(new_backend_message(NEW_BACKEND)) == NEW_BACKEND


def test_what_was_not_said_stays_unsaid() -> None:
    key = ApiKey(key_id=KeyId("0"), name="n", owner="n", scopes=(), created_unix_s=0.0)
    wish = NewKey(name="n", scopes=())
    backend = dataclasses.replace(BACKEND, slots=None, weight=None, health=BackendHealth(state=BackendState.STARTING))
    new = NewBackend(name="n", url="u")
    assert of_key(key_message(key)) == key
    assert of_new_key(new_key_message(wish)) == wish
    assert of_backend(backend_message(backend)) == backend
    assert of_new_backend(new_backend_message(new)) == new


def test_words_of_a_newer_version_grant_nothing() -> None:
    told = key_message(KEY)
    told.scopes.append("teleport")
    assert of_key(told).scopes == KEY.scopes
    shown = backend_message(BACKEND)
    shown.state = "resting"
    assert of_backend(shown).health.state is BackendState.UNHEALTHY
    asked = new_key_message(WISH)
    asked.scopes.append("teleport")
    with pytest.raises(InvalidRequest):
        of_new_key(asked)


@pytest.mark.parametrize("limit", [-1, 2**32])
def test_a_limit_that_the_wire_cannot_hold_is_refused_in_words(limit: int) -> None:
    with pytest.raises(InvalidRequest):
        new_key_message(dataclasses.replace(WISH, parallel=limit))
    wild = dataclasses.replace(NEW_BACKEND, slots=limit)
    assert of_new_backend(new_backend_message(wild)).slots in (0, 2**32 - 1)
