"""The extension of JupyterLab, from the wheel as it is installed: tabs, panel, palette, viewer."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.conftest import cache, new_lab
from tests.browser.jupyter import Lab, Server, serve, write_notebook

ROOT = Path(__file__).parents[2]

MODEL = """
import numpy as np, torch, time
from torch import nn
import tapml_nb as tapml

torch.manual_seed(0)
def make(name):
    layers = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.SiLU()) for _ in range(4)])
    return tapml.debug(layers.eval(), (torch.randn(3, 8),), target="llvm", name=name)

def slow(x):
    time.sleep(0.4)
    return x / (1 + np.exp(-x))

def broken(x):
    return x
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel in it, as pip leaves it, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", build, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    wheel = folder / built.stdout.split()[-1]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    prefix = folder / "prefix"
    subprocess.run([*pip, "--no-deps", "--no-compile", "--prefix", prefix, wheel], check=True)
    return prefix


@pytest.fixture(scope="module")
def server(
    installed: Path, kernel_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """JupyterLab with the extension, whose kernels import what the wheel brought."""
    (packages,) = installed.glob("lib/*/site-packages")
    environment = {
        **cache(kernel_cache),
        "JUPYTER_PATH": str(installed / "share" / "jupyter"),
        "PYTHONPATH": str(packages),
    }
    with serve(tmp_path_factory.mktemp("lab"), environment=environment) as server:
        yield server


@pytest.fixture
def lab(browser: Browser, server: Server, request: pytest.FixtureRequest) -> Iterator[Lab]:
    with new_lab(browser, server, request) as lab:
        yield lab


def until(lab: Lab, condition: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        lab.page.wait_for_timeout(30)


def text(locator: Locator) -> str:
    return "\n".join(locator.all_text_contents())


def test_open_beside(lab):
    write_notebook(lab.root / "n.ipynb", [f"{MODEL}\nsession = make('Four')", "session", "session.run()"])
    lab.open("n.ipynb")
    assert lab.run_cell(0)
    assert lab.run_cell(1)
    lab.page.get_by_role("button", name="Open beside").click()
    tab = lab.page.locator(".tapml-tab")
    tab.locator(".tapml-whole").wait_for()
    lab.page.screenshot(path="/tmp/beside.png")
    print(lab.errors)
