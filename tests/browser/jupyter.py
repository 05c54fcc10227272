"""A real JupyterLab or Notebook 7 as the browser tests drive it: server, notebook file, page.

``serve`` starts a server of its own, ``write_notebook`` leaves a file in its folder, and ``Lab``
wraps the page that shows it. Whatever can be asked of the application itself (run, save, restart,
theme) goes through ``window.jupyterapp``, the object that a front-end extension gets; what a user
sees is left to Playwright's locators, which wait by themselves.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import dedent
from typing import Any, Literal
from urllib.parse import quote

import psutil
from playwright.sync_api import ConsoleMessage, Error, Locator, Page
from playwright.sync_api import TimeoutError as PlaywrightTimeout

App = Literal["lab", "notebook"]
Theme = Literal["JupyterLab Light", "JupyterLab Dark"]

OLDER_KERNELS = {"ipykernel-6.31": "6.31.0", "ipykernel-7.3": "7.3.0"}
"""Kernels by name, with the version of ipykernel that the Makefile installs for each."""

KERNELS = ("python3", *OLDER_KERNELS)
"""Every kernel that a notebook can ask for; ``python3`` runs the environment's own ipykernel."""

SETTINGS: dict[str, dict[str, Any]] = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
}
"""The user's settings that every server starts from."""

STARTUP_SECONDS = 60.0
FIRST_ANSWER_SECONDS = 5.0


@dataclass(frozen=True)
class Server:
    """A running Jupyter server."""

    app: App
    url: str
    token: str
    root: Path
    folder: Path
    """Its configuration, data, settings, workspaces and log."""
    settings: Mapping[str, Mapping[str, Any]]

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")

    def request(self, path: str, method: str = "GET") -> Any:
        """The answer of the server's REST API, decoded; ``None`` where it has no content."""
        call = urllib.request.Request(
            f"{self.url}/api/{path}",
            method=method,
            headers={"Authorization": f"token {self.token}"},
        )
        with urllib.request.urlopen(call, timeout=30) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def address(self, name: str, workspace: str) -> str:
        """Where a browser without a cookie finds a notebook; JupyterLab also needs a workspace."""
        place = {"lab": f"lab/workspaces/{workspace}/tree", "notebook": "notebooks"}[self.app]
        return f"{self.url}/{place}/{quote(name)}?token={self.token}"

    def reset(self) -> None:
        """Ends all kernels and takes every setting back to what the server started from."""
        for session in self.request("sessions"):
            self.request(f"sessions/{session['id']}", "DELETE")
        for kernel in self.request("kernels"):
            self.request(f"kernels/{kernel['id']}", "DELETE")
        _write_settings(self.folder / "settings", self.settings)


@contextmanager
def serve(
    root: Path,
    app: App = "lab",
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    environment: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
) -> Iterator[Server]:
    """A Jupyter server on a free port of the loopback interface, alone with its own settings.

    Args:
        root: the folder whose notebooks it serves.
        app: JupyterLab or Notebook 7.
        settings: user settings by plugin name, on top of ``SETTINGS``.
        environment: variables for the server and its kernels, on top of this process's.
        arguments: further command-line arguments.

    When the block is left, no process is left that the server or one of its kernels started.

    Raises:
        RuntimeError: the server did not come up, or an older ipykernel is not installed.
    """
    folder = Path(tempfile.mkdtemp(prefix="jupyter-"))
    token = secrets.token_hex(16)
    settings = {**SETTINGS, **(settings or {})}
    variables = {**_variables(folder), **(environment or {})}
    try:
        _write_kernelspecs(folder / "data" / "kernels")
        _write_settings(folder / "settings", settings)
        with (folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *_command(app, root, token), *arguments],
                env=variables,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield _wait_for_server(process, Server(app, "", token, root, folder, settings))
        finally:
            _stop(process, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _command(app: App, root: Path, token: str) -> list[str]:
    module, name = {
        "lab": ("jupyterlab", "LabApp"),
        "notebook": ("notebook", "JupyterNotebookApp"),
    }[app]
    return [
        module,
        "--no-browser",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=0",
        f"--ServerApp.root_dir={root}",
        "--ServerApp.allow_root=True",
        f"--IdentityProvider.token={token}",
        f"--{name}.expose_app_in_browser=True",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly",
    ]


def _variables(folder: Path) -> dict[str, str]:
    """This process's environment without its own Jupyter, if it runs inside one."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "JPY_"))}
    kept.pop("MPLBACKEND", None)  # ipykernel chooses the inline one
    return kept | {
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "IPYTHONDIR": str(folder / "ipython"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "2",
    }


def _write_kernelspecs(folder: Path) -> None:
    """One kernel for each older ipykernel, whose folder comes before the environment's own."""
    for name, version in OLDER_KERNELS.items():
        package = Path(sys.prefix) / "kernels" / version
        if not package.exists():
            raise RuntimeError(f"ipykernel {version} is not in {package}: run `make kernels`")
        path = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
        spec = {
            "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": name,
            "language": "python",
            "env": {"PYTHONPATH": os.pathsep.join(path)},
        }
        (folder / name).mkdir(parents=True)
        (folder / name / "kernel.json").write_text(json.dumps(spec))


def _write_settings(folder: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Leaves exactly these settings in the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, values in settings.items():
        package, plugin = name.split(":")
        path = folder / package / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))


def _wait_for_server(process: subprocess.Popen[bytes], server: Server) -> Server:
    """The server with its address, which it writes into a file before it answers."""
    info = server.folder / "runtime" / f"jpserver-{process.pid}.json"
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, ValueError):
            found = json.loads(info.read_text())
            ready = replace(server, url=f"http://127.0.0.1:{found['port']}{found['base_url']}"[:-1])
            ready.request("status")
            return ready
        time.sleep(0.05)
    raise RuntimeError(f"the Jupyter server did not start:\n{server.log[-3000:]}")


def _stop(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Ends the server in peace, then whatever still carries its runtime folder.

    Kernels, and what they start, may lead sessions and process groups of their own and outlive
    their parents; the environment they inherit is what all of them have in common.
    """
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(15)
    while left := processes_of(folder):
        for one in left:
            with suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(left, 5)
    process.wait()


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every process that descends from the server which keeps its files in ``folder``."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("JUPYTER_RUNTIME_DIR") == str(folder / "runtime"):
                found.append(process)
    return found


def write_notebook(path: Path, cells: Sequence[str], kernel: str = "python3") -> None:
    """A notebook of code cells without outputs; the sources may be indented."""
    notebook = {
        "cells": [
            {
                "cell_type": "code",
                "id": f"cell-{i}",
                "metadata": {},
                "execution_count": None,
                "outputs": [],
                "source": dedent(cell).strip(),
            }
            for i, cell in enumerate(cells)
        ],
        "metadata": {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(notebook))


KNOWN_ERRORS = (
    # keyboard shortcuts are told of another plugin's settings before they have loaded their own
    "Cannot read properties of undefined (reading 'schema')",
    # a kernel is restarted while the debugger's front end still waits for its state
    "Could not restore the debugger state",
)
"""What the application's own code throws or logs; nobody else's is ever excused."""


@dataclass
class Console:
    """What a page said from now on: every line, and those that are errors."""

    page: Page
    lines: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._on_message)
        self.page.on("pageerror", self._on_error)

    def _on_message(self, message: ConsoleMessage) -> None:
        text = f"{message.type}: {message.text} ({message.location['url']})"
        self.lines.append(text)
        if message.type == "error" and not _known(message.text, [message.location["url"]]):
            self.errors.append(text)

    def _on_error(self, error: Error) -> None:
        text = f"uncaught: {error.stack or error.message}"
        self.lines.append(text)
        if not _known(error.message, re.findall(r"(?:https?|blob):\S+", error.stack or "")):
            self.errors.append(text)

    def save(self, folder: Path, name: str) -> None:
        """Leaves a screenshot and every line as ``<name>.png`` and ``<name>.log``."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"at: {self.page.url}", *self.lines]
        try:
            self.page.screenshot(path=folder / f"{name}.png", timeout=5000)
        except Error as error:
            lines.append(f"no screenshot: {error.message}")
        (folder / f"{name}.log").write_text("\n".join(lines) + "\n")


def _known(text: str, places: Sequence[str]) -> bool:
    """Whether it is a known error that comes from nothing but the application's own files."""
    own = all(re.match(r"https?://[^/]+/static/", place) for place in places)
    return own and any(known in text for known in KNOWN_ERRORS)


class KernelError(RuntimeError):
    """Code that ``Lab.execute`` ran has raised; the message is the traceback."""


class Lab:
    """A page with one notebook, in JupyterLab or Notebook 7 as the server has it.

    Methods that change something return when it is done, and raise ``TimeoutError`` when it is
    not done in time. The application's settings are as it ships them, but for ``SETTINGS``: cells
    far below the viewport may not be in the document until ``output`` scrolls to them.
    """

    def __init__(self, page: Page, server: Server) -> None:
        self.page = page
        self.server = server
        self.console = Console(page)
        self.workspace = f"test-{secrets.token_hex(4)}"
        self.name = ""

    @property
    def root(self) -> Path:
        """The folder where ``open`` finds notebooks."""
        return self.server.root

    @property
    def errors(self) -> list[str]:
        """Exceptions that no code of the page caught, and errors on its console."""
        return self.console.errors

    def open(self, name: str) -> None:
        """Shows a notebook of the server's folder; returns when its kernel is idle."""
        self.page.goto(self.server.address(name, self.workspace))
        self.name = name
        self._wait_until_open()
        self._wait_for_new_kernel()

    def return_to(self, name: str) -> None:
        """Shows a notebook whose kernel goes on from another page."""
        self.page.goto(self.server.address(name, self.workspace))
        self.name = name
        self._wait_until_open()
        self.wait_idle()

    def reload(self) -> None:
        """Loads the page anew, as F5 does; the kernel goes on, what was not saved is lost."""
        self.page.reload()
        self._wait_until_open()
        self.wait_idle()

    def _wait_until_open(self) -> None:
        self.page.wait_for_function(
            "name => window.jupyterapp?.shell?.currentWidget?.context?.path === name",
            arg=self.name,
        )
        self._call("await app.restored; await panel.context.ready; await session.ready;")

    def _wait_for_new_kernel(self) -> None:
        """Waits for the first answer of a kernel that has just started.

        About one in twenty kernels of ipykernel 7.3 never answers, whatever it is asked, however
        long one waits, on an idle machine without any notebook code; it is restarted.
        """
        for _ in range(3):
            try:
                self.wait_idle(FIRST_ANSWER_SECONDS)
                return
            except TimeoutError:
                if self._call("return kernel?.status;") not in ("unknown", "restarting"):
                    break
                self._call("await session.restartKernel();", timeout=60)
        self.wait_idle()

    def run_all(self, *, wait: bool = True, timeout: float = 60) -> bool | None:
        """Runs every cell; tells whether all ended well (``None`` without ``wait``)."""
        return self._run("notebook:run-all-cells", wait, timeout)

    def run_cell(self, i: int, *, wait: bool = True, timeout: float = 60) -> bool | None:
        """Runs one cell; tells whether it ended well (``None`` without ``wait``)."""
        self._call("notebook.deselectAll(); notebook.activeCellIndex = arg;", i)
        return self._run("notebook:run-cell", wait, timeout)

    def _run(self, command: str, wait: bool, timeout: float) -> bool | None:
        if not wait:
            self._call("app.commands.execute(arg).catch(() => {});", command)
            return None
        ended_well = self._call("return await app.commands.execute(arg);", command, timeout)
        self.wait_idle()
        return ended_well

    def wait_idle(self, timeout: float = 60) -> None:
        """Waits until no cell runs or is to run, and the connected kernel is idle."""
        self._wait(
            """
            kernel?.connectionStatus === 'connected' && kernel.status === 'idle' &&
            notebook.widgets.every(cell => cell.model.executionState !== 'running')
            """,
            timeout,
        )

    def shutdown_kernel(self) -> None:
        """Ends the kernel; the notebook stays open without one."""
        self._call("await session.shutdown();")
        self._wait("!kernel", 10)

    def save(self) -> None:
        """Writes the notebook to its file."""
        self._call("await panel.context.save();")

    def theme(self, name: Theme) -> None:
        """Changes the theme; the fixture takes it back after the test."""
        self._call("await app.commands.execute('apputils:change-theme', {theme: arg});", name)
        self.page.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=name)

    def output(self, i: int) -> Locator:
        """The area with all outputs of a cell, scrolled to if it was far outside the viewport."""
        self._call("if (!notebook.widgets[arg].isAttached) await notebook.scrollToItem(arg);", i)
        return self.page.locator(
            ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook "
            f'.jp-Cell[data-windowed-list-index="{i}"] .jp-Cell-outputArea'
        )

    def execute(self, code: str, timeout: float = 30) -> str:
        """Runs code in the notebook's kernel, past the notebook; returns what it printed.

        Raises:
            KernelError: the code raised.
            TimeoutError: the kernel did not answer in time, because a cell runs, for example.
        """
        answer = self._call(
            """
            const future = kernel.requestExecute({
                code: arg, store_history: false, allow_stdin: false, stop_on_error: false,
            });
            let printed = '';
            future.onIOPub = message => {
                if (message.header.msg_type === 'stream' && message.content.name === 'stdout')
                    printed += message.content.text;
            };
            const {content} = await future.done;
            return {printed, traceback: content.status === 'ok' ? null : content.traceback ?? []};
            """,
            dedent(code),
            timeout,
        )
        if answer["traceback"] is not None:
            raise KernelError(re.sub(r"\x1b\[[\d;]*m", "", "\n".join(answer["traceback"])))
        return answer["printed"]

    def _call(self, body: str, arg: Any = None, timeout: float = 30) -> Any:
        """Runs JavaScript that sees the application by the names of ``_NAMES``.

        Raises:
            TimeoutError: a promise it waits for was not kept in time.
            playwright.sync_api.Error: it threw.
        """
        answer = self.page.evaluate(
            f"""([arg, seconds]) => {{
                {_NAMES}
                let timer;
                const late = new Promise(done => {{
                    timer = setTimeout(() => done({{late: true}}), 1000 * seconds);
                }});
                const work = (async () => {{ {body} }})().then(value => ({{value}}));
                return Promise.race([work, late]).finally(() => clearTimeout(timer));
            }}""",
            [arg, timeout],
        )
        if answer.get("late"):
            raise TimeoutError(f"not done in {timeout:g} s: {' '.join(body.split())}")
        return answer.get("value")

    def _wait(self, condition: str, timeout: float) -> None:
        """Waits for a JavaScript condition on the same names."""
        try:
            self.page.wait_for_function(
                f"() => {{ {_NAMES} return {condition.strip()}; }}", timeout=1000 * timeout
            )
        except PlaywrightTimeout:
            state = self._call("return `kernel ${session.kernelDisplayStatus}`;")
            wanted = " ".join(condition.split())
            raise TimeoutError(f"not so in {timeout:g} s ({state}): {wanted}") from None


_NAMES = """
    const app = window.jupyterapp;
    const panel = app.shell.currentWidget;
    const notebook = panel.content;
    const session = panel.sessionContext;
    const kernel = session.session?.kernel;
"""
"""The application, the notebook's panel and its content, and the connection to its kernel."""
