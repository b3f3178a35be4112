"""Addresses of servers."""

import socket
from ipaddress import ip_address

import pytest

from diffusers_ccld.utils import addresses
from diffusers_ccld.utils.addresses import address_of


@pytest.mark.parametrize(
    "host, address", [("127.0.0.1", "http://127.0.0.1:80"), ("::1", "http://[::1]:80"), ("a.lan", "http://a.lan:80")]
)
def test_a_host_is_its_own_address(host, address):
    assert address_of(host, 80) == address


def test_a_server_on_all_addresses_is_reached_at_the_machines_own():
    with socket.create_server(("0.0.0.0", 0)) as server:
        host, port = address_of("0.0.0.0", server.getsockname()[1]).removeprefix("http://").rsplit(":", 1)
        socket.create_connection((host, int(port)), timeout=5).close()
    assert host == socket.gethostname() or not ip_address(host).is_unspecified


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_without_a_network_the_address_has_the_machines_name(host, monkeypatch):
    def no_route(*_):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(addresses.socket, "socket", no_route)
    assert address_of(host, 80) == f"http://{socket.gethostname()}:80"
