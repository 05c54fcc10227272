"""The workbench in a real JupyterLab: what a person does with it, from the quickstart on."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Locator, expect

from tests.browser.jupyter import KERNELS, Lab, processes_of, write_notebook

ROOT = Path(__file__).parents[2]
CULPRIT = "model.layers.2.mlp.act_fn/silu"

MODEL = """
import time
import numpy as np
import torch
from torch import nn
import tapml_nb as tapml

torch.manual_seed(0)
layers = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.SiLU()) for _ in range(6)])
session = tapml.debug(layers.eval(), (torch.randn(3, 8),), target="llvm", name="Six")

def slow(x):
    time.sleep(0.4)
    return x / (1 + np.exp(-x))

def broken(x):
    return x
"""
SLOW = "for k in range(6):\n    session.override(f'{k}.1', slow)"

WATCH = """() => {
  window.counts = [];
  addEventListener("tapml-painted", (e) => window.counts.push(e.detail.received));
}"""


def text(locator: Locator) -> str:
    return "\n".join(locator.all_text_contents())


def until(lab: Lab, condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        lab.page.wait_for_timeout(30)


def work(lab: Lab) -> str:
    return text(lab.page.locator(".tapml-work"))


def open_live(lab: Lab, cells: list[str], kernel: str = "python3") -> None:
    """A notebook whose first cell shows a workbench."""
    write_notebook(lab.root / "n.ipynb", cells, kernel)
    lab.open("n.ipynb")
    assert lab.run_cell(0)
    lab.page.locator(".tapml-whole").wait_for()
    lab.page.evaluate(WATCH)


def placement(lab: Lab, op: str) -> str:
    return lab.execute(f"print(session.placement[{op!r}])").strip()


@pytest.fixture(scope="module")
def screenshots() -> Path:
    folder = ROOT / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_the_quickstart_by_hand(lab, screenshots):
    """Run all, toggle a scope, watch a run, stop it, click the culprit, lose the target."""
    shutil.copy(ROOT / "notebooks" / "quickstart.ipynb", lab.root / "quickstart.ipynb")
    lab.open("quickstart.ipynb")
    assert lab.run_all(timeout=150)
    page = lab.page
    page.locator(".tapml-whole").wait_for()
    page.evaluate(WATCH)
    assert lab.execute("print(session.placement['lm_head/linear'])").strip() == "target"

    # Toggle a scope in the graph; Python and the table follow.
    lab.execute("session.restore('*')")
    page.locator(".tapml-canvas").focus()
    page.keyboard.press("/")
    page.keyboard.type("layers.2.mlp.act_fn")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    spoken = page.locator(".tapml-graph .tapml-spoken[aria-live]")
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
        if "model.layers.2:" in text(spoken):
            break
    assert "model.layers.2:" in text(spoken)
    page.keyboard.press(" ")
    until(lab, lambda: placement(lab, CULPRIT) == "target")
    moved = lab.execute("print([o for o, w in session.placement.items() if w == 'target'])")
    assert "model.layers.2.self_attn.q_proj/linear" in moved
    assert "model.layers.1." not in moved
    page.get_by_label("Filter operators by text").fill(CULPRIT)
    expect(page.locator(".tapml-rows input[type=checkbox]")).to_be_checked()
    page.get_by_label("Filter operators by text").fill("")

    # A run that takes a while: points arrive before its end, and Stop stops it.
    lab.execute(
        "import time\n"
        "def slow(x):\n    time.sleep(0.7)\n    return x / (1 + np.exp(-x))\n"
        "for k in range(4):\n    session.override(f'model.layers.{k}.mlp.act_fn', slow)"
    )
    page.get_by_role("button", name="Run", exact=True).click()
    until(lab, lambda: "judging" in work(lab))
    seen: set[str] = set()
    while "judging" in work(lab) and len(seen) < 3:
        seen.add(page.evaluate("() => window.counts.at(-1)"))
    assert len(seen) >= 3
    page.get_by_role("button", name="Stop").click()
    until(lab, lambda: "run stopped after" in work(lab))

    # The target is killed in mid run: the status says so, and the run goes on to its end.
    target = next(p for p in processes_of(lab.server.folder) if "tapml_nb.targets" in _line(p))
    page.get_by_role("button", name="Run", exact=True).click()
    until(lab, lambda: "judging" in work(lab))
    for process in [target, *target.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # the children end with their parent by themselves
            process.send_signal(signal.SIGKILL)
    until(lab, lambda: "1 restart" in text(page.locator(".tapml-status")))
    until(lab, lambda: "run done in" in work(lab), 30)
    assert "connected at" in text(page.locator(".tapml-status"))
    assert lab.execute("print(session.report.culprits)").strip() == "[]"

    # A broken kernel: found, clicked, its difference shown.
    lab.execute(
        "for k in range(4):\n    session.override(f'model.layers.{k}.mlp.act_fn', None)\n"
        "session.override('model.layers.2.mlp.act_fn', silu_with_a_bad_tail)"
    )
    page.get_by_role("button", name="Run", exact=True).click()
    culprit = page.locator(f".tapml-culprits button[title='{CULPRIT}: FAIL']")
    culprit.click(timeout=30_000)
    until(lab, lambda: f"{CULPRIT}: difference" in text(page.locator(".tapml-caption")))
    until(lab, lambda: "noise floors" in text(page.locator(".tapml-why")))
    page.get_by_role("button", name="Hybrid").click()
    until(lab, lambda: "hybrid run done" in work(lab))

    for theme in ("Light", "Dark"):
        lab.theme(f"JupyterLab {theme}")
        for width in (1280, 800):
            page.set_viewport_size({"width": width, "height": 1150})
            page.locator(".tapml-status").evaluate("e => e.scrollIntoView()")
            page.wait_for_timeout(300)
            page.screenshot(path=screenshots / f"workbench-{theme.lower()}-{width}.png")
            if width == 800:
                page.locator(".tapml-plot").evaluate("e => e.scrollIntoView()")
                page.wait_for_timeout(200)
                page.screenshot(path=screenshots / f"workbench-{theme.lower()}-{width}-lower.png")
    assert lab.errors == []


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_all_by_keyboard(lab):
    """From the first Tab to a fixed kernel, without a mouse."""
    open_live(lab, [f"{MODEL}\nsession.override('3.1', broken)\nsession"])
    page = lab.page
    keys = page.keyboard

    def tab_to(name: str) -> None:
        for _ in range(60):
            keys.press("Tab")
            here = page.evaluate(
                "() => { const e = document.activeElement;"
                " return e.getAttribute('aria-label') || e.textContent; }"
            )
            if here.startswith(name):
                return
        raise AssertionError(f"Tab does not reach {name}")

    page.locator(".tapml-status button").first.focus()
    keys.press("Enter")
    until(lab, lambda: "run done" in work(lab))
    tab_to("Model graph")
    keys.press("Home")
    keys.press("Enter")
    keys.press(" ")
    until(lab, lambda: placement(lab, "0.0/linear") == "target")
    keys.press("f")
    keys.press("+")
    tab_to("✗3.1/silu")
    keys.press("Enter")
    until(lab, lambda: "FAIL" in text(page.locator(".tapml-badge")))
    tab_to("Verdict")
    for _ in range(3):
        keys.press("ArrowRight")
    until(lab, lambda: page.locator("textarea.tapml-code").count() == 1)
    tab_to("A NumPy function")
    keys.press("Control+a")
    keys.insert_text("import numpy as np\ndef fixed(x):\n    return x / (1 + np.exp(-x))")
    tab_to("try it")
    keys.press("Enter")
    until(lab, lambda: "PASS" in text(page.locator(".tapml-badge")))
    until(lab, lambda: "no culprit among" in text(page.locator(".tapml-culprits")))
    tab_to("Divergence over")
    keys.press("Home")
    keys.press("ArrowRight")
    until(lab, lambda: "0.1/silu" in text(page.locator(".tapml-inspector h3")))
    tab_to("Operators")
    keys.press("ArrowDown")
    keys.press(" ")
    until(lab, lambda: placement(lab, "1.0/linear") == "target")
    tab_to("Heatmap")
    keys.press("ArrowDown")
    until(lab, lambda: ":" in text(page.locator(".tapml-heat .tapml-tip")))
    assert lab.errors == []


@pytest.mark.parametrize("kernel", KERNELS)
def test_live_while_a_cell_waits_and_stop_reaches_it(lab, kernel):
    open_live(lab, [f"{MODEL}{SLOW}\nsession", "session.run()\nprint('unreached')"], kernel)
    page = lab.page
    version = lab.execute("import ipykernel; print(ipykernel.__version__)")
    assert version.startswith(kernel.removeprefix("ipykernel-").replace("python3", "7."))
    lab.run_cell(1, wait=False)
    until(lab, lambda: "judging" in work(lab))
    until(lab, lambda: len(set(page.evaluate("() => window.counts.slice(1)"))) >= 2)
    assert "judging" in work(lab)
    page.get_by_role("button", name="Stop").click()
    until(lab, lambda: "run stopped after" in work(lab))
    lab.wait_idle()
    judged = int(lab.execute("print(len(session.report.introduced))"))
    assert 0 < judged < 12


def test_reloading_and_running_again_restore_the_view(lab):
    cells = [f"{MODEL}\nsession.override('3.1', broken)\nsession", "session.run()", "session"]
    open_live(lab, cells)
    page = lab.page
    assert lab.run_cell(1)
    until(lab, lambda: page.locator(".tapml-culprits button").count() == 1)
    page.locator(".tapml-culprits button").click()
    page.get_by_label("Filter by kind").select_option("aten.silu")
    page.locator(".tapml-canvas").focus()
    page.keyboard.press("Home")
    page.wait_for_timeout(500)
    selected = text(page.locator(".tapml-inspector h3"))

    def restored(root: Locator) -> bool:
        return (
            text(root.locator(".tapml-inspector h3")) == selected
            and root.locator(".tapml-rows .tapml-row").count() == 6
            and root.locator(".tapml-culprits button").count() == 1
        )

    assert lab.run_cell(2)
    again = lab.output(2).locator(".tapml-whole")
    again.wait_for()
    until(lab, lambda: restored(again))
    # both views are one: what one selects, the other shows
    again.locator("[role=grid]").focus()
    page.keyboard.press("End")
    until(lab, lambda: text(lab.output(0).locator(".tapml-inspector h3")) == "5.1/silu")
    selected = "5.1/silu"
    lab.save()
    lab.reload()
    first = lab.output(0).locator(".tapml-whole")
    first.wait_for()
    until(lab, lambda: restored(first))
    first.get_by_role("button", name="Run", exact=True).click()
    until(lab, lambda: "run done" in text(first.locator(".tapml-work")))
    assert lab.errors == []


def test_a_saved_notebook_shows_its_last_state_without_a_kernel(
    lab, browser, screenshots, tmp_path
):
    open_live(lab, [f"{MODEL}\nsession.override('3.1', broken)\nsession", "session.run()"])
    page = lab.page
    assert lab.run_cell(1)
    picture = lab.output(0).locator("img")
    until(lab, lambda: picture.count() == 1)
    assert not picture.is_visible()  # the live one stands there
    until(lab, lambda: "3.1/silu" in text(lab.output(0).locator("table")))
    lab.save()
    lab.shutdown_kernel()
    page.close()
    lab.server.reset()

    context = browser.new_context(viewport={"width": 1280, "height": 1150})
    try:
        again = Lab(context.new_page(), lab.server)
        again.open("n.ipynb")
        picture = again.output(0).locator("img")
        picture.wait_for()
        assert picture.evaluate("e => e.naturalWidth") > 600
        assert "3.1/silu" in text(again.output(0).locator("table"))
        shown = again.output(0).inner_text()
        assert "Error displaying widget" not in shown
        again.page.screenshot(path=screenshots / "without-kernel.png")
    finally:
        context.close()

    notebook = lab.root / "n.ipynb"
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--output-dir", str(tmp_path)]
    subprocess.run([*command, str(notebook)], check=True, capture_output=True)
    html = (tmp_path / "n.html").read_text()
    assert "data:image/png;base64" in html
    assert "3.1/silu" in html


def test_a_name_that_looks_like_html_is_text(lab):
    name = "<img src=x onerror=alert(1)>"
    dialogs = []
    lab.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    cells = [
        f"""
import torch, tapml_nb as tapml
from torch import nn
model = nn.Sequential()
model.add_module({name!r}, nn.Linear(4, 4))
session = tapml.debug(model.eval(), (torch.randn(2, 4),), target="llvm", name={name!r})
session.override(session.graph.ops[0].id, lambda *inputs: inputs[0])
session""",
        "print(session.run().summary())",
        "session.report",
    ]
    open_live(lab, cells)
    assert lab.run_cell(1)
    assert lab.run_cell(2)
    page = lab.page
    page.locator(".tapml-culprits button").click()
    until(lab, lambda: name in text(page.locator(".tapml-inspector h3")))
    until(lab, lambda: name in text(lab.output(0).locator("table")))
    assert page.locator("img[src=x]").count() == 0
    assert dialogs == []


def test_notebook_7(notebook7):
    lab = notebook7
    open_live(lab, [f"{MODEL}\nsession.override('3.1', broken)\nsession", "session.run()"])
    assert lab.run_cell(1)
    page = lab.page
    until(lab, lambda: page.locator(".tapml-culprits button").count() == 1)
    page.locator(".tapml-culprits button").click()
    until(lab, lambda: "difference" in text(page.locator(".tapml-caption")))
    page.locator("[role=grid]").focus()
    page.keyboard.press("Home")
    page.keyboard.press(" ")
    until(lab, lambda: placement(lab, "0.0/linear") == "target")
    until(lab, lambda: lab.output(0).locator("img").count() == 1)
    assert not lab.output(0).locator("img").is_visible()
    assert lab.errors == []
