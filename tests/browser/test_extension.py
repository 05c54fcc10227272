"""JupyterLab's extension, from the wheel as it is installed: tabs, panel, palette, viewer."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Dialog, Locator, expect
from torch import nn

import tapml_nb as tapml
from tests.browser.conftest import cache, new_lab
from tests.browser.jupyter import Lab, Server, serve, write_notebook

ROOT = Path(__file__).parents[2]

MODEL = """
import time
import numpy as np
import torch
from torch import nn
import tapml_nb as tapml

torch.manual_seed(0)

def make(name):
    layers = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.SiLU()) for _ in range(4)])
    return tapml.debug(layers.eval(), (torch.randn(3, 8),), target="llvm", name=name)

def broken(x):
    return x

def slow(x):
    time.sleep(0.3)
    return x / (1 + np.exp(-x))
"""
EVIL = "<img src=x onerror=alert(1)>"


def run(*command: object, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def answer(lab: Lab, dialog: Dialog) -> None:
    """Leaves pages with notebooks that are not saved; there is nothing else to be asked."""
    if dialog.type == "beforeunload":
        dialog.accept()
    else:
        lab.errors.append(f"a dialog: {dialog.message}")
        dialog.dismiss()


def pip(python: Path, *arguments: object) -> None:
    run(sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, *arguments)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    return folder / run(sys.executable, "-c", build, folder).split()[-1]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it and nothing else."""
    folder = tmp_path_factory.mktemp("installed") / "env"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    pip(folder / "bin" / "python", "install", "--no-deps", "--no-compile", wheel)
    return folder


@pytest.fixture(scope="module")
def environment(installed: Path, kernel_cache: Path) -> dict[str, str]:
    """Of servers with the extension, whose kernels import what the wheel brought."""
    (packages,) = installed.glob("lib/*/site-packages")
    return {
        **cache(kernel_cache),
        "JUPYTER_PATH": str(installed / "share" / "jupyter"),
        "PYTHONPATH": str(packages),
    }


@pytest.fixture(scope="module")
def server(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("lab"), environment=environment) as server:
        yield server


@pytest.fixture
def lab(browser: Browser, server: Server, request: pytest.FixtureRequest) -> Iterator[Lab]:
    with new_lab(browser, server, request) as lab:
        lab.page.on("dialog", partial(answer, lab))
        yield lab
        assert lab.errors == []


@pytest.fixture(scope="module")
def bundle(kernel_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers, the second activation of which was broken when they were carved."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 8), nn.SiLU())
    path = tmp_path_factory.mktemp("bundle") / "net.tapml"
    with tapml.debug(model.eval(), (torch.randn(3, 8),), target="llvm", name=EVIL) as session:
        session.override("3", lambda x: x)
        session.run()
        session.carve(path).close()
    return path


@pytest.fixture(scope="module")
def screenshots() -> Path:
    folder = ROOT / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def until(lab: Lab, condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        lab.page.wait_for_timeout(30)


def text(locator: Locator) -> str:
    return "\n".join(locator.all_text_contents())


def to_notebook(lab: Lab, path: str) -> None:
    """Have a notebook, whatever is in front of it, be the one that ``Lab`` drives."""
    lab.page.evaluate("path => jupyterapp.commands.execute('docmanager:open', {path})", path)
    lab.page.wait_for_function("p => jupyterapp.shell.currentWidget?.context?.path === p", arg=path)


def restored(lab: Lab) -> None:
    """Wait until the page, which may be loading, has everything where it was."""
    lab.page.wait_for_function("() => window.jupyterapp?.restored.then(() => true)")


def command(lab: Lab, name: str, args: Any = None) -> None:
    lab.page.evaluate(
        "([name, args]) => void jupyterapp.commands.execute(name, args)", [name, args or {}]
    )


def pictures(lab: Lab, folder: Path, name: str) -> None:
    """The page as it is, light and dark."""
    for theme in ("Light", "Dark"):
        command(lab, "apputils:change-theme", {"theme": f"JupyterLab {theme}"})
        lab.page.wait_for_function(
            "name => document.body.dataset.jpThemeName === name", arg=f"JupyterLab {theme}"
        )
        lab.page.locator("#jupyterlab-splash").wait_for(state="detached")
        lab.page.screenshot(path=folder / f"{name}-{theme.lower()}.png")


def show_panel(lab: Lab) -> Locator:
    command(lab, "tapml-nb:show-sessions")
    panel = lab.page.locator(".tapml-panel[role=region]")
    panel.wait_for()
    return panel


def test_a_workbench_opens_beside_and_follows_what_cells_do(lab, screenshots):
    cells = [
        f"{MODEL}\nsession = make('Four')",
        "session",
        "session.run()\nNone",
        "session = make('Four')\nsession.override('2.1', broken)\nsession.run()\nNone",
    ]
    write_notebook(lab.root / "n.ipynb", cells)
    lab.open("n.ipynb")
    page = lab.page
    assert lab.run_cell(0)
    assert lab.run_cell(1)
    page.get_by_role("button", name="Open beside").click()
    tab = page.locator(".tapml-tab")
    tab.locator(".tapml-whole").wait_for()
    assert not tab.get_by_role("button", name="Open beside").is_visible()
    notebook, beside = (page.locator(s).bounding_box() for s in (".jp-NotebookPanel", ".tapml-tab"))
    assert notebook["x"] + notebook["width"] <= beside["x"]

    # It follows a run, outlives its output, and goes on with the next session of the model.
    to_notebook(lab, "n.ipynb")
    assert lab.run_cell(2)
    until(lab, lambda: "run done" in text(tab.locator(".tapml-work")))
    command(lab, "notebook:clear-all-cell-outputs")
    until(lab, lambda: page.locator(".jp-NotebookPanel .tapml").count() == 0)
    assert lab.run_cell(3)
    until(lab, lambda: "1 culprit" in text(tab.locator(".tapml-work")))
    tab.locator(".tapml-culprits button").click()
    until(lab, lambda: "2.1/silu" in text(tab.locator(".tapml-inspector h3")))
    pictures(lab, screenshots, "beside")
    to_notebook(lab, "n.ipynb")
    lab.save()

    # It comes back with the page, where it was, and says what it waits for without a kernel.
    page.wait_for_timeout(1000)  # the layout is saved a moment after it changed
    page.reload()
    tab.locator(".tapml-whole").wait_for()
    until(lab, lambda: "2.1/silu" in text(tab.locator(".tapml-inspector h3")))
    assert tab.count() == 1
    to_notebook(lab, "n.ipynb")
    lab.shutdown_kernel()
    notice = tab.locator(".tapml-notice")
    until(lab, lambda: "Waiting for the kernel: none runs for n.ipynb" in text(notice))
    assert "Below is what it told last" in text(notice)


def test_a_tab_opens_and_stops_a_run_while_a_cell_waits(lab):
    """From the panel, in a page that was loaded after the run began."""
    cells = [
        f"{MODEL}\nsession = make('Four')",
        "for k in range(4):\n    session.override(f'{k}.1', slow)\nwhile True:\n    session.run()",
    ]
    write_notebook(lab.root / "n.ipynb", cells)
    lab.open("n.ipynb")
    assert lab.run_cell(0)
    lab.run_cell(1, wait=False)
    lab.page.reload()
    restored(lab)
    panel = show_panel(lab)
    panel.locator(".tapml-session").click()
    tab = lab.page.locator(".tapml-tab")
    tab.locator(".tapml-whole").wait_for()
    until(lab, lambda: "judging" in text(tab.locator(".tapml-work")))
    until(lab, lambda: "judging" in text(panel))
    tab.get_by_role("button", name="Stop").click()
    until(lab, lambda: "run stopped after" in text(tab.locator(".tapml-work")))
    to_notebook(lab, "n.ipynb")
    lab.wait_idle()


def test_the_panel_has_the_sessions_of_all_kernels(lab, screenshots):
    write_notebook(lab.root / "one.ipynb", [f"{MODEL}\nsession = make({EVIL!r})"])
    write_notebook(
        lab.root / "two.ipynb",
        [
            f"{MODEL}\na = make('A')\nb = make('B')\nb.override('1.1', broken)\nb.run()\nNone",
            "del b\nimport gc; gc.collect()\nNone",
        ],
    )
    lab.open("one.ipynb")
    panel = show_panel(lab)
    assert "No debugging session" in text(panel)
    assert lab.run_cell(0)
    titles = panel.locator(".tapml-title")
    until(lab, lambda: titles.all_text_contents() == [f"{EVIL} on llvm"])
    to_notebook(lab, "two.ipynb")
    lab.name = "two.ipynb"
    lab.wait_idle()
    assert lab.run_cell(0)
    until(lab, lambda: titles.all_text_contents() == [f"{EVIL} on llvm", "B on llvm", "A on llvm"])
    sections = panel.locator("section")
    assert sections.locator("h3").all_text_contents() == ["one.ipynb", "two.ipynb"]
    until(lab, lambda: "8 of 8 operators judged: 1 culprit" in text(sections.nth(1)))
    assert "FAIL 1.1/silu" in text(sections.nth(1).locator(".tapml-causes"))
    assert "nothing judged yet" in text(sections.nth(0))
    pictures(lab, screenshots, "panel")

    panel.get_by_role("button", name=EVIL).click()
    tab = lab.page.locator(".tapml-tab")
    tab.locator(".tapml-whole").wait_for()
    assert EVIL in text(tab.locator(".tapml-state"))
    assert lab.page.locator("img[src=x]").count() == 0
    assert lab.page.locator(".lm-TabBar-tabLabel", has_text=EVIL).count() == 1

    # What goes from a kernel goes from the panel, and a page that comes late sees the same.
    to_notebook(lab, "two.ipynb")
    assert lab.run_cell(1)
    until(lab, lambda: titles.all_text_contents() == [f"{EVIL} on llvm", "A on llvm"])
    lab.page.reload()
    until(lab, lambda: titles.all_text_contents() == [f"{EVIL} on llvm", "A on llvm"])
    to_notebook(lab, "two.ipynb")
    lab.shutdown_kernel()
    until(lab, lambda: titles.all_text_contents() == [f"{EVIL} on llvm"])


def test_a_new_notebook_comes_from_the_palette(lab, screenshots):
    write_notebook(lab.root / "n.ipynb", [""])
    lab.open("n.ipynb")
    page = lab.page
    settings = json.dumps({"target": "c", "colours": "dark"})
    page.evaluate(
        "raw => jupyterapp.serviceManager.settings.save('tapml-nb:plugin', raw)", settings
    )
    page.reload()
    restored(lab)
    page.keyboard.press("Control+Shift+c")
    page.locator(".lm-CommandPalette-input").fill("New debugging notebook")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("What is it brought up on?")).to_have_value("c")
    dialog.get_by_label("What kind of model?").select_option("ONNX")
    page.screenshot(path=screenshots / "new-notebook.png")
    dialog.get_by_role("button", name="Create").click()
    until(lab, lambda: (lab.root / "Untitled.ipynb").exists())
    page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)", has_text="ONNX on c").wait_for()
    made = json.loads((lab.root / "Untitled.ipynb").read_text())
    sources = "".join(line for cell in made["cells"] for line in cell["source"])
    assert 'tapml.debug("llama.onnx"' in sources
    assert 'target="c"' in sources
    command(lab, "launcher:create")
    card = page.locator(".jp-LauncherCard", has_text="Debugging notebook")
    card.wait_for()


def damaged(bundle: Path) -> bytes:
    """With a bit of another value in the output of the last operator."""
    with zipfile.ZipFile(bundle) as archive:
        test = json.loads(archive.read("manifest.json"))["tests"][-1]
        content = archive.read(f"tensors/{test['outputs'][0]['tensor']}.safetensors")
    spoilt = content[:-1] + bytes([content[-1] ^ 1])
    return bundle.read_bytes().replace(content, spoilt)


def test_a_bundle_opens_by_a_double_click_without_a_kernel(lab, bundle, screenshots):
    page = lab.page
    write_notebook(lab.root / "n.ipynb", [""])
    (lab.root / "net.tapml").write_bytes(bundle.read_bytes())
    (lab.root / "damaged.tapml").write_bytes(damaged(bundle))
    (lab.root / "other.tapml").write_text("this is no zip")
    page.goto(f"{lab.server.url}/lab/workspaces/{lab.workspace}?token={lab.server.token}")
    page.locator(".jp-DirListing-item", has_text="net.tapml").dblclick()
    viewer = page.locator(".tapml-viewer:visible")
    viewer.locator(".tapml-whole").wait_for()
    assert f"{EVIL}: 4 operators, written by tapml_nb" in text(viewer.locator(".tapml-stored"))
    assert page.locator("img[src=x]").count() == 0

    # It begins with what was broken; its tensors are read out of the file.
    until(lab, lambda: "3/silu" in text(viewer.locator(".tapml-inspector h3")))
    assert "When it was carved: 1 culprit✗" in text(viewer.locator(".tapml-culprits"))
    until(lab, lambda: "3/silu: source, [3, 8]" in text(viewer.locator(".tapml-caption")))
    viewer.get_by_role("tab", name="Tensors").click()
    until(lab, lambda: "float32[3, 8]" in text(viewer.locator(".tapml-panel")))
    assert viewer.get_by_role("tab").all_text_contents()[:2] == ["Verdict", "Tensors"]
    assert not viewer.get_by_role("tab", name="Try a fix").is_visible()
    assert not viewer.get_by_role("button", name="re-run").is_visible()
    viewer.get_by_label("Which tensor").select_option("float64")
    until(lab, lambda: "3/silu: float64, [3, 8]" in text(viewer.locator(".tapml-caption")))
    assert viewer.locator(".tapml-rows .tapml-row").count() == 4
    pictures(lab, screenshots, "bundle")
    page.locator(".jp-DirListing-item", has_text="other.tapml").dblclick()
    until(lab, lambda: "other.tapml cannot be shown: it is no zip" in text(viewer))
    page.locator(".jp-DirListing-item", has_text="damaged.tapml").dblclick()
    until(lab, lambda: "is damaged in tensors/" in text(viewer.locator(".tapml-caption")))
    assert lab.server.request("kernels") == []


def test_notebook_7_has_the_panel_and_no_button(browser, environment, request, tmp_path):
    write_notebook(tmp_path / "n.ipynb", [f"{MODEL}\nsession = make('Four')\nsession"])
    with (
        serve(tmp_path, "notebook", environment=environment) as server,
        new_lab(browser, server, request) as lab,
    ):
        lab.open("n.ipynb")
        assert lab.run_cell(0)
        lab.page.locator(".tapml-whole").wait_for()
        assert lab.page.get_by_role("button", name="Open beside").count() == 0
        panel = show_panel(lab)
        until(lab, lambda: "Four on llvm" in text(panel))
        assert lab.errors == []


def test_what_is_uninstalled_leaves_nothing(wheel, tmp_path):
    folder = tmp_path / "env"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    before = {path for path in folder.rglob("*") if path.is_file()}
    pip(folder / "bin" / "python", "install", "--no-deps", "--no-compile", wheel)
    extension = folder / "share" / "jupyter" / "labextensions" / "tapml-nb"
    described = json.loads((extension / "package.json").read_text())
    assert (extension / described["jupyterlab"]["_build"]["load"]).is_file()
    workbench = ROOT / "tapml_nb" / "widgets" / "static" / "workbench.js"
    assert (extension / "static" / "workbench.js").read_bytes() == workbench.read_bytes()
    pip(folder / "bin" / "python", "uninstall", "--yes", "tapml_nb")
    assert {path for path in folder.rglob("*") if path.is_file()} == before
    assert not extension.exists()
