"""What an agent may say of itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chorus_proto.errors import InvalidRequest
from chorus_proto.ids import ModelName
from chorus_proto.values import ReplicaReport, ReplicaState
from chorus_server.introduction import MAC_ADDRESSES_LIMIT, MODELS_LIMIT, REPLICAS_LIMIT, check_hello, check_inventory
from tests.support.fake_node import file_of, hello_of

MAC = "1c:69:7a:00:00:0f"


def test_what_agents_say_is_taken() -> None:
    check_hello(replace(hello_of("attic"), mac_addresses=(MAC,) * MAC_ADDRESSES_LIMIT))


@pytest.mark.parametrize(
    "address",
    ["", "1C:69:7A:00:00:0F", "1c-69-7a-00-00-0f", "1c:69:7a:00:00", f"{MAC}:01", f"{MAC}\n", "zz:69:7a:00:00:0f"],
)
def test_an_address_that_no_packet_could_have_is_refused(address: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_hello(replace(hello_of("attic"), mac_addresses=(MAC, address)))
    assert caught.value.param == "mac_addresses"


def test_lists_are_bounded() -> None:
    with pytest.raises(InvalidRequest, match="addresses"):
        check_hello(replace(hello_of("attic"), mac_addresses=(MAC,) * (MAC_ADDRESSES_LIMIT + 1)))
    loaded = ReplicaReport(model=ModelName("m"), state=ReplicaState.READY)
    with pytest.raises(InvalidRequest, match="loaded"):
        check_hello(replace(hello_of("attic"), replicas=(loaded,) * (REPLICAS_LIMIT + 1)))
    with pytest.raises(InvalidRequest, match="announced"):
        check_inventory([file_of("m")] * (MODELS_LIMIT + 1))
    with pytest.raises(InvalidRequest, match="characters"):
        check_inventory([file_of("")])
