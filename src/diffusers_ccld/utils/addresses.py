"""Addresses of servers. With the standard library alone: web/build.py runs this file where nothing is installed."""

import socket

ANYWHERE = {"0.0.0.0": "203.0.113.1", "::": "2001:db8::1"}  # and an address of other networks, reserved for examples


def address_of(host: str, port: int) -> str:
    """The address by which a server can be opened, such as "http://127.0.0.1:7860".

    Args:
        host: What it listens on. For all addresses, 0.0.0.0 or ::, the result has this machine's own.
        port: Its port.
    """
    if host in ANYWHERE:
        host = _own_host(host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _own_host(host: str) -> str:
    """This machine's address in its network, or else its name."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as route:
            route.connect((ANYWHERE[host], 9))  # of UDP: chooses the route, and sends nothing
            return route.getsockname()[0]
    except OSError:
        return socket.gethostname()
