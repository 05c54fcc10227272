"""The server as TVM's own client, and as a stranger, sees it."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

import numpy as np
import pytest
import tvm
from tvm import rpc

from tapml_nb.targets.process import LocalServer
from tapml_nb.targets.server import MAGIC
from tests import kernels


@pytest.fixture(scope="module")
def server():
    with contextlib.closing(LocalServer()) as server:
        yield server


def test_tvms_own_client_uploads_loads_and_runs(server, tmp_path):
    library = tvm.tirx.build(
        tvm.IRModule({"silu": kernels.honest.with_attr("global_symbol", "silu")}), target="llvm"
    )
    library.export_library(str(tmp_path / "silu.so"))
    remote = rpc.connect("127.0.0.1", server.port, server.token)
    remote.upload(str(tmp_path / "silu.so"))
    silu = remote.load_module("silu.so")["silu"]
    x = np.random.default_rng(0).standard_normal(kernels.SHAPE).astype(np.float32)
    device = remote.cpu(0)
    out = tvm.runtime.empty(kernels.SHAPE, "float32", device)
    silu(tvm.runtime.tensor(x, device), out)
    np.testing.assert_allclose(out.numpy(), x / (1 + np.exp(-x)), rtol=1e-5)


def test_a_wrong_key_is_refused(server):
    with pytest.raises(Exception, match="key"):
        rpc.connect("127.0.0.1", server.port, "wrong")


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd"])
def test_paths_are_confined(server, path):
    remote = rpc.connect("127.0.0.1", server.port, server.token)
    with pytest.raises(Exception, match="leaves the session's folder"):
        remote.get_function("tvm.rpc.server.workpath")(path)


def test_strangers_do_not_block_anyone(server):
    silent = socket.create_connection(("127.0.0.1", server.port))
    rude = socket.create_connection(("127.0.0.1", server.port))
    rude.sendall(b"GET / HTTP/1.1\r\n\r\n")
    greedy = socket.create_connection(("127.0.0.1", server.port))
    greedy.sendall(struct.pack("<ii", MAGIC, 1 << 30))
    begin = time.monotonic()
    rpc.connect("127.0.0.1", server.port, server.token)
    assert time.monotonic() - begin < 2
    for connection in (rude, greedy):
        connection.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    silent.close()


def test_it_listens_on_the_loopback_interface_alone(server):
    import psutil

    addresses = {
        c.laddr.ip
        for c in psutil.net_connections("tcp")
        if c.laddr.port == server.port and not c.raddr
    }
    assert addresses == {"127.0.0.1"}


def test_the_token_is_not_on_the_command_line(server):
    import psutil

    process = psutil.Process(server._process.pid)
    assert server.token not in " ".join(process.cmdline())
