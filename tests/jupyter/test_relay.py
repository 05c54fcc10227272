"""The route of the Jupyter server: the package's own page, and sessions of this user's alone."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import closing, contextmanager

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve

from tapml_nb.jupyter.relay import is_own
from tapml_nb.targets.client.endpoint import LocalServer
from tapml_nb.targets.server.pages import STATIC
from tapml_nb.targets.wire.handshake import CHALLENGE, PROOF, proof
from tests.conftest import wait_until

TOKEN = "relay-test"
KEY = "0" * 32


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    """The address of a Jupyter server with the extension."""
    folder = tmp_path_factory.mktemp("jupyter")
    names = ("HOME", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {
        "ServerApp.port": port,
        "ServerApp.root_dir": folder,
        "ServerApp.jpserver_extensions": "{'tapml_nb.jupyter.relay': True}",
        "ServerApp.allow_root": True,
        "IdentityProvider.token": TOKEN,
    }
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyter_server", "--no-browser"]
            + [f"--{name}={value}" for name, value in options.items()],
            env=os.environ | dict.fromkeys(names, str(folder)),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        address = f"127.0.0.1:{port}"
        assert wait_until(lambda: get(address, "api")[0] == 200, 60), (folder / "log").read_text()
        yield address
    finally:
        server.terminate()
        server.wait(30)


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def get(address, path, token=TOKEN):
    """Status, headers and body of a page."""
    headers = {"Authorization": f"token {token}"} if token else {}
    request = urllib.request.Request(f"http://{address}/{path}", headers=headers)
    try:
        answer = urllib.request.build_opener(NoRedirect).open(request, timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    except OSError:
        return 0, {}, b""
    with answer:
        return answer.status, answer.headers, answer.read()


def open_socket(address, port, key=KEY, **headers):
    return connect(
        f"ws://{address}/tapml-nb/{port}/{key}/device",
        additional_headers={"Authorization": f"token {TOKEN}"} | headers,
    )


@contextmanager
def evil_page():
    """Somebody's web server: HTML for any path, or a redirect; counts who came."""
    came = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            came.append(self.path)
            self.send_response(302 if self.path.endswith("device") else 200)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<script>evil()</script>")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port, came
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def evil_socket(answer=lambda connection: connection.send("you are mine")):
    """Some other websocket server of this user's."""
    with serve(answer, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.socket.getsockname()[1]
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "file"), [("", "page.html"), ("page.js", "page.js")], ids=["page", "script"]
)
def test_files_are_the_packages_own_whatever_the_port(jupyter, name, file):
    with evil_page() as (port, came):
        status, headers, body = get(jupyter, f"tapml-nb/{port}/{KEY}/{name}")
    assert (status, came) == (200, [])
    assert body == (STATIC / file).read_bytes()
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_who_is_not_logged_in_gets_nothing(jupyter):
    status, headers, _ = get(jupyter, f"tapml-nb/1/{KEY}/", token="")
    assert status == 302
    assert "/login" in headers["Location"]
    with closing(LocalServer()) as server:
        key = server.link.rstrip("/").rpartition("/")[2]
        with pytest.raises(InvalidStatus, match="403"):
            open_socket(jupyter, server.port, key, Authorization="token no")


@pytest.mark.parametrize("path", [f"tapml-nb/80/{KEY}/style.css", f"tapml-nb/80/{KEY}/page.js/x"])
def test_there_is_nothing_else(jupyter, path):
    assert get(jupyter, path)[0] == 404


class TestSocket:
    def test_a_session_of_ours(self, jupyter):
        """The page's socket is let in, and stays open until somebody wants a device."""
        with closing(LocalServer()) as server:
            key = server.link.rstrip("/").rpartition("/")[2]
            with open_socket(jupyter, server.port, key) as page:
                with pytest.raises(TimeoutError):
                    page.recv(1.0)
                page.ping().wait(5)
            # And what the server says reaches the page: here, that the session is over.
            with open_socket(jupyter, server.port, key) as page:
                wait_until(lambda: False, 0.5)
                server.close()
                with pytest.raises(ConnectionClosed):
                    page.recv(30)

    def test_messages_go_both_ways(self, jupyter):
        """With who proves the key; what it says at once is not lost."""

        def answer(connection):
            connection.send("first")
            for message in connection:
                connection.send(message)

        def prove(connection, request, response):
            response.headers[PROOF] = proof(KEY, request.headers[CHALLENGE])
            return response

        with serve(answer, "127.0.0.1", 0, process_response=prove) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            with open_socket(jupyter, server.socket.getsockname()[1]) as page:
                assert page.recv(10) == "first"
                for message in ("text", b"\0\1\2"):
                    page.send(message)
                    assert page.recv(10) == message
            server.shutdown()

    def test_another_servers_words_never_reach_the_page(self, jupyter):
        heard = []

        def answer(connection):
            connection.send("you are mine")
            heard.extend(connection)

        with evil_socket(answer) as port, pytest.raises(InvalidStatus, match="404"):
            open_socket(jupyter, port)
        assert heard == []

    def test_a_wrong_key_at_a_server_of_ours(self, jupyter):
        with closing(LocalServer()) as server:
            with pytest.raises(InvalidStatus, match="404"):
                open_socket(jupyter, server.port)

    def test_redirects_lead_nowhere(self, jupyter):
        with evil_page() as (port, came):
            with pytest.raises(InvalidStatus, match="404"):
                open_socket(jupyter, port)
        assert came == [f"/{KEY}/device"]

    def test_a_port_that_is_silent(self, jupyter):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            with pytest.raises(InvalidStatus, match="404"):
                open_socket(jupyter, port)

    @pytest.mark.parametrize("port", [0, 1, 99999])
    def test_no_port_at_all(self, jupyter, port):
        with pytest.raises(InvalidStatus, match="404"):
            open_socket(jupyter, port)


@pytest.mark.parametrize(
    ("family", "host"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")],
)
def test_whose_a_port_is(family, host):
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        port = listener.getsockname()[1]
        assert not is_own(port)  # nobody listens yet
        listener.listen()
        assert is_own(port)
        assert not is_own(port, os.getuid() + 1)
    assert not is_own(port)
