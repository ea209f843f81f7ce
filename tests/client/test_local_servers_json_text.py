from __future__ import annotations

import json

import pytest

from chorus_client.local_servers.json_text import with_values

TEXT = '{ "a" : [1, {"b":  "x"}],\n\t"c":{}, "d": {"e": 1} , "f": {\n    "g": null\n  }}\n'


def test_only_the_value_changes() -> None:
    assert with_values(TEXT, {("a", 1, "b"): "y"}) == TEXT.replace('"x"', '"y"')
    assert with_values(TEXT, {("a", 0): True, ("f", "g"): [1]}) == TEXT.replace("[1,", "[true,").replace("null", "[1]")


def test_a_new_member_is_written_as_those_before_it() -> None:
    assert '{"e": 1, "é\\"": 2}' in with_values(TEXT, {("d", 'é"'): 2})
    assert '\n    "g": null,\n    "h": 2\n  }}' in with_values(TEXT, {("f", "h"): 2})
    assert '"c":{"new": {}}' in with_values(TEXT, {("c", "new"): {}})


def test_the_result_is_json_with_exactly_that_change() -> None:
    changed = json.loads(with_values(TEXT, {("a", 1, "b"): 'q"\\', ("top",): 1.5}))
    assert changed == {**json.loads(TEXT), "a": [1, {"b": 'q"\\'}], "top": 1.5}


def test_a_member_of_an_object_that_is_not_there_is_refused() -> None:
    with pytest.raises(KeyError):
        with_values(TEXT, {("nothing", "x"): 1})


def test_scalars_and_empty_containers_are_walked_over() -> None:
    assert with_values('{"a": [], "b": -1.5e3, "c": "\\"}", "d": 1}', {("d",): 2}).endswith('"d": 2}')
