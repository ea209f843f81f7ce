from __future__ import annotations

import pytest

from chorus_proto.convert_membership import (
    join_message,
    member_message,
    of_join,
    of_member,
    of_open_token,
    open_token_message,
)
from chorus_proto.ids import new_node_id
from chorus_proto.logs import redacted
from chorus_proto.membership import (
    JoinWish,
    Member,
    OpenToken,
    TokenId,
    digest_of,
    join_token_of,
    new_join_token,
    new_node_secret,
    node_bearer,
    node_claim_of,
)

PIN = "ab" * 32


def test_a_join_token_is_read_back_from_its_text_whatever_stands_around_it() -> None:
    made = new_join_token(PIN)
    assert join_token_of(f" {made.text}\r\n") == made
    assert new_join_token(PIN).secret != made.secret


@pytest.mark.parametrize(
    "text",
    ["", "chorus1", f"chorus1.{PIN}", f"chorus1.{PIN[:-1]}.abcdef.{'a' * 26}", f"chorus2.{PIN}.abcdef.{'a' * 26}"],
)
def test_what_is_no_join_token_is_none(text: str) -> None:
    assert join_token_of(text) is None


def test_a_node_proves_itself_by_the_digest_of_its_secret() -> None:
    node_id, secret = new_node_id(), new_node_secret()
    claim = node_claim_of(node_bearer(node_id, secret).encode())
    assert claim is not None
    assert (claim.node_id, claim.digest) == (node_id, digest_of(secret))
    for wrong in (b"", b"chorusnode_x_y", "chorusnode_ÿ".encode("latin-1"), node_bearer(node_id, "short").encode()):
        assert node_claim_of(wrong) is None


def test_no_secret_stands_in_a_representation_or_survives_a_log() -> None:
    token, secret = new_join_token(PIN), new_node_secret()
    bearer = node_bearer(new_node_id(), secret)
    wish = JoinWish(token_id=token.token_id, token_secret=token.secret, node_id=new_node_id(), name="a", digest=b"d")
    told = f"{token!r} {wish!r} {node_claim_of(bearer.encode())!r}"
    logged = redacted(f"{token.text} {bearer} Bearer {bearer}")
    for hidden in (token.secret, secret):
        assert hidden not in told and hidden not in logged


def test_what_travels_is_the_same_at_the_other_end() -> None:
    wish = JoinWish(
        token_id=TokenId("abcdef"), token_secret="s", node_id=new_node_id(), name="attic", digest=digest_of("x")
    )
    assert of_join(join_message(wish)) == wish
    token = OpenToken(token_id=TokenId("abcdef"), created_unix_s=1.0, expires_unix_s=2.0, uses_left=3)
    assert of_open_token(open_token_message(token)) == token
    for revoked in (None, 0.0, 5.0):
        member = Member(
            node_id=new_node_id(),
            name="attic",
            address="10.0.0.7",
            token_id=TokenId("abcdef"),
            joined_unix_s=4.0,
            revoked_unix_s=revoked,
        )
        assert of_member(member_message(member)) == member
