"""Chromium, Jupyter servers and pages for the browser tests.

What is shared lives as long as this package's tests run, not for the whole session: Playwright
keeps an event loop running in the thread, in which other tests' ``asyncio.run`` would fail.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Playwright, ViewportSize, sync_playwright

from tests.browser.jupyter import Console, Lab, Server, serve

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WEBGPU = [
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--disable-gpu-process-crash-limit",
    "--disable-domain-blocking-for-3d-apis",
]
"""A GPU that the CPU plays, as often as a test kills it."""

VIEWPORT: ViewportSize = {"width": 1280, "height": 900}

FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@contextmanager
def launch(playwright: Playwright, *arguments: str) -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    chromium = playwright.chromium.launch(
        executable_path=CHROMIUM, headless=True, args=[*ARGUMENTS, *arguments]
    )
    try:
        yield chromium
    finally:
        chromium.close()


@pytest.fixture(scope="package")
def browser(playwright: Playwright) -> Iterator[Browser]:
    with launch(playwright) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def gpu_browser(playwright: Playwright) -> Iterator[Browser]:
    """One with WebGPU."""
    with launch(playwright, *WEBGPU) as chromium:
        yield chromium


@contextmanager
def new_page(browser: Browser) -> Iterator[Page]:
    """A page that shares no cookie, no storage and no cache with another."""
    context = browser.new_context(viewport=VIEWPORT)
    try:
        yield context.new_page()
    finally:
        context.close()


@contextmanager
def evidence(request: pytest.FixtureRequest, console: Console) -> Iterator[None]:
    """Leaves a screenshot and the console's lines in build/screenshots if the test fails."""
    yield
    if request.node.stash.get(FAILED, False):
        name = re.sub(r"[^\w.-]+", "-", request.node.name).strip("-")
        console.save(request.config.rootpath / "build" / "screenshots", f"failed-{name}")


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A bare page, for what needs no Jupyter."""
    with new_page(browser) as page, evidence(request, Console(page)):
        yield page


@contextmanager
def new_lab(browser: Browser, server: Server, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A page on a server, which has no kernels and its first settings afterwards."""
    try:
        with new_page(browser) as page:
            lab = Lab(page, server)
            with evidence(request, lab.console):
                yield lab
    finally:
        server.reset()


@pytest.fixture(scope="package")
def lab_server(kernel_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """JupyterLab, whose kernels share the tests' kernel cache."""
    with serve(tmp_path_factory.mktemp("lab"), environment=cache(kernel_cache)) as server:
        yield server


@pytest.fixture(scope="package")
def notebook_server(
    kernel_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Notebook 7, the same way."""
    root = tmp_path_factory.mktemp("notebook")
    with serve(root, "notebook", environment=cache(kernel_cache)) as server:
        yield server


def cache(folder: Path) -> dict[str, str]:
    return {"TAPML_CACHE": str(folder)}


@pytest.fixture
def lab(browser: Browser, lab_server: Server, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A new page on JupyterLab."""
    with new_lab(browser, lab_server, request) as lab:
        yield lab


@pytest.fixture
def gpu_lab(
    gpu_browser: Browser, lab_server: Server, request: pytest.FixtureRequest
) -> Iterator[Lab]:
    """A new page on JupyterLab, with WebGPU."""
    with new_lab(gpu_browser, lab_server, request) as lab:
        yield lab


@pytest.fixture
def notebook7(
    browser: Browser, notebook_server: Server, request: pytest.FixtureRequest
) -> Iterator[Lab]:
    """A new page on Notebook 7."""
    with new_lab(browser, notebook_server, request) as lab:
        yield lab
