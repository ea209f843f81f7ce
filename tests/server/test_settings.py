from __future__ import annotations

import pytest

from chorus_proto.settings import SettingsError
from chorus_server.settings import CoordinatorSettings


def test_a_share_or_a_weight_that_is_no_number_of_a_name_is_refused_with_an_example() -> None:
    CoordinatorSettings(user_shares=("ann=2",), node_weights=("attic-pc=0.5", "a=b=3")).check()
    with pytest.raises(SettingsError, match=r"user_shares = 'ann' is no NAME=SHARE of 0\.01-100, such as ann=2"):
        CoordinatorSettings(user_shares=("ann",)).check()
    for wrong in ("attic-pc", "=2", "attic-pc=0", "attic-pc=1000", "attic-pc=fast"):
        with pytest.raises(SettingsError, match=r"no NAME=WEIGHT of 0\.01-100, such as attic-pc=2"):
            CoordinatorSettings(node_weights=(wrong,)).check()
