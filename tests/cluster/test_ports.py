import os
import socket

import pytest

from cluster.errors import PortTaken
from cluster.ports import PICK_FROM, free_block, free_ports, is_free, require_free


def test_a_taken_port_names_pid_and_command_of_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free(port)
        with pytest.raises(PortTaken, match=rf"port {port}, which the gateway needs, .* pid {os.getpid()} \(.*pytest"):
            require_free("the gateway", port, "set OBJECTA_GATEWAY_PORT")
    require_free("the gateway", port, "set OBJECTA_GATEWAY_PORT")


def test_picked_ports_are_free_different_and_below_the_ephemeral_range() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert set(ports) <= set(PICK_FROM)
    assert all(is_free(port) for port in ports)


def test_a_block_is_free_and_in_a_row() -> None:
    block = free_block(32)
    assert len(block) == 32
    assert block.step == 1
    assert all(is_free(port) for port in block)
