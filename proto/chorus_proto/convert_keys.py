"""API keys on CoordinatorService, to the values of `keys.py` and back."""

from __future__ import annotations

from chorus_proto import coordinator_pb2
from chorus_proto.errors import InvalidRequest
from chorus_proto.generation import ThoughtField
from chorus_proto.keys import ApiKey, KeyId, NewKey, Scope


def _thought_field(name: str) -> ThoughtField | None:
    """None for one of a newer version, which then changes nothing here."""
    return ThoughtField(name) if name in set(ThoughtField) else None


def key_message(key: ApiKey) -> coordinator_pb2.ApiKey:
    return coordinator_pb2.ApiKey(
        key_id=key.key_id,
        name=key.name,
        owner=key.owner,
        scopes=list(key.scopes),
        created_unix_s=key.created_unix_s,
        expires_unix_s=key.expires_unix_s,
        last_used_unix_s=key.last_used_unix_s,
        revoked_unix_s=key.revoked_unix_s,
        requests_per_minute=key.requests_per_minute,
        parallel=key.parallel,
        tokens_per_day=key.tokens_per_day,
        tokens_today=key.tokens_today,
        trusted=key.trusted,
        thought_field=key.thought_field or "",
    )


def of_key(message: coordinator_pb2.ApiKey) -> ApiKey:
    """A scope of a newer version is left out: it allows nothing here."""
    known = {scope.value for scope in Scope}
    return ApiKey(
        key_id=KeyId(message.key_id),
        name=message.name,
        owner=message.owner,
        scopes=tuple(Scope(scope) for scope in message.scopes if scope in known),
        created_unix_s=message.created_unix_s,
        expires_unix_s=message.expires_unix_s if message.HasField("expires_unix_s") else None,
        last_used_unix_s=message.last_used_unix_s if message.HasField("last_used_unix_s") else None,
        revoked_unix_s=message.revoked_unix_s if message.HasField("revoked_unix_s") else None,
        requests_per_minute=message.requests_per_minute if message.HasField("requests_per_minute") else None,
        parallel=message.parallel if message.HasField("parallel") else None,
        tokens_per_day=message.tokens_per_day if message.HasField("tokens_per_day") else None,
        tokens_today=message.tokens_today,
        trusted=message.trusted,
        thought_field=_thought_field(message.thought_field),
    )


def new_key_message(wish: NewKey) -> coordinator_pb2.CreateKeyRequest:
    """Raises InvalidRequest for a limit that the wire cannot hold."""
    try:
        return coordinator_pb2.CreateKeyRequest(
            name=wish.name,
            owner=wish.owner,
            scopes=list(wish.scopes),
            expires_in_s=wish.expires_in_s,
            requests_per_minute=wish.requests_per_minute,
            parallel=wish.parallel,
            tokens_per_day=wish.tokens_per_day,
            trusted=wish.trusted,
            thought_field=wish.thought_field or "",
        )
    except ValueError:
        raise InvalidRequest("a limit of a key is a number from 1 to 4294967295") from None


def of_new_key(message: coordinator_pb2.CreateKeyRequest) -> NewKey:
    """Raises InvalidRequest for a scope that this version does not know."""
    try:
        scopes = tuple(Scope(scope) for scope in message.scopes)
    except ValueError:
        raise InvalidRequest(f"a key's scopes are {', '.join(Scope)}", param="scopes") from None
    return NewKey(
        name=message.name,
        owner=message.owner,
        scopes=scopes,
        expires_in_s=message.expires_in_s if message.HasField("expires_in_s") else None,
        requests_per_minute=message.requests_per_minute if message.HasField("requests_per_minute") else None,
        parallel=message.parallel if message.HasField("parallel") else None,
        tokens_per_day=message.tokens_per_day if message.HasField("tokens_per_day") else None,
        trusted=message.trusted,
        thought_field=_thought_field(message.thought_field),
    )
