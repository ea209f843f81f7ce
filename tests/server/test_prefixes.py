from __future__ import annotations

import pytest

from chorus_server.prefixes import BLOCK_BYTES, BLOCKS_LIMIT, FIRST_TRUST, Prefixes, blocks_of

SYSTEM = b"s" * 4 * BLOCK_BYTES
ANN = SYSTEM + b"a" * 2 * BLOCK_BYTES
BOB = SYSTEM + b"b" * 3 * BLOCK_BYTES


def test_equal_beginnings_have_equal_blocks_and_what_follows_a_difference_has_none_in_common() -> None:
    ann, bob = blocks_of(ANN), blocks_of(BOB)
    assert ann[:4] == bob[:4] == blocks_of(SYSTEM + b"rest of a block")
    assert not set(ann[4:]) & set(bob[4:])
    assert not set(blocks_of(b"x" + ANN)) & set(ann)
    assert blocks_of(b"short") == ()
    assert len(blocks_of(bytes(2_000_000))) == BLOCKS_LIMIT


def test_each_replica_is_known_by_how_much_of_the_beginning_it_was_given() -> None:
    index = Prefixes()
    index.keep(1, blocks_of(ANN), room_blocks=100)
    index.keep(2, blocks_of(BOB), room_blocks=100)
    assert index.held(blocks_of(ANN + b"more" * BLOCK_BYTES)) == {1: 6, 2: 4}
    assert index.held(blocks_of(BOB)) == {1: 4, 2: 7}
    assert index.held(blocks_of(b"else" * BLOCK_BYTES)) == {}
    assert index.held(()) == {}


def test_what_was_not_used_longest_is_forgotten_first_and_shared_beginnings_last() -> None:
    index = Prefixes()
    index.keep(1, blocks_of(ANN), room_blocks=7)
    index.keep(1, blocks_of(BOB), room_blocks=7)
    assert index.held(blocks_of(BOB)) == {1: 7}
    assert index.held(blocks_of(ANN)) == {1: 4}
    index.keep(1, blocks_of(b"other" * BLOCK_BYTES), room_blocks=7)
    assert index.held(blocks_of(BOB)).get(1, 0) == 2


def test_a_prompt_that_is_longer_than_the_caches_is_held_as_far_as_they_reach() -> None:
    index = Prefixes()
    index.keep(1, blocks_of(BOB), room_blocks=5)
    assert index.held(blocks_of(BOB)) == {1: 5}


def test_replicas_that_are_gone_are_forgotten_with_all_that_they_held() -> None:
    index = Prefixes()
    index.keep(1, blocks_of(ANN), room_blocks=100)
    index.keep(2, blocks_of(ANN), room_blocks=100)
    index.forget_all_but({2})
    assert index.held(blocks_of(ANN)) == {2: 6}
    index.forget_all_but(())
    assert index.held(blocks_of(ANN)) == {}


def test_an_engine_that_never_has_what_we_take_for_cached_is_trusted_less_and_less() -> None:
    index = Prefixes()
    index.keep(1, blocks_of(ANN), room_blocks=100)
    assert index.trust(1) == FIRST_TRUST
    for _ in range(60):
        index.told(1, held_tokens=500, cached_tokens=0)
    assert index.trust(1) < 0.01
    for _ in range(60):
        index.told(1, held_tokens=500, cached_tokens=700)
    assert index.trust(1) == pytest.approx(1, abs=0.01)
    index.told(1, held_tokens=0, cached_tokens=0)
    assert index.trust(1) == pytest.approx(1, abs=0.01)
