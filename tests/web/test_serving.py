"""The server of web/build.py, without a browser."""

import runpy
import signal
import socket
import subprocess
import sys
from urllib.request import urlopen

import pytest

from diffusers_ccld.utils.addresses import address_of
from support.scripts import ROOT

SERVE = "import pathlib, runpy, sys; build = runpy.run_path(sys.argv[1]); host = sys.argv[3];"
SERVE += "build['serve'](build['listen'](pathlib.Path(sys.argv[2]), host, 0), host)"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_printed_address_opens_the_folder(host, tmp_path):
    (tmp_path / "index.html").write_text("pictures")
    command = [sys.executable, "-c", SERVE, str(ROOT / "web" / "build.py"), str(tmp_path), host]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = server.stdout.readline().split()[0]
            with urlopen(address, timeout=5) as answer:
                assert answer.read() == b"pictures"
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(timeout=10) == 0
    port = address.rstrip("/").rpartition(":")[2]
    assert address == f"{address_of(host, int(port))}/"


def test_a_port_that_is_taken_is_replaced_and_a_wrong_host_is_one_line(tmp_path, capsys):
    build = runpy.run_path(str(ROOT / "web" / "build.py"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with build["listen"](tmp_path, "127.0.0.1", port) as server:
            assert server.server_port != port
    # 203.0.113.1 is reserved for examples: no machine has it.
    assert build["main"](["--serve", "--host", "203.0.113.1", "--output", str(tmp_path / "site")]) == 2
    assert "--host 203.0.113.1: nothing can listen there" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
