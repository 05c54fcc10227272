"""The notebook's own page as the target, in a real JupyterLab on this machine and behind a hub."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

from playwright.sync_api import Page, Playwright, expect

from tests.browser.conftest import WEBGPU, cache, launch, new_lab, new_page
from tests.browser.jupyter import Lab, serve, write_notebook
from tests.browser.test_jupyterlab import until

MODEL = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import tapml_nb as tapml
from tests import models

session = tapml.debug(*models.NAME(), target=tapml.Target("webgpu", rpc="browser"))
"""

COUNTS = "print({str(verdict): count for verdict, count in session.report.counts.items()})"
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"


def open_page(lab: Lab, *cells: str, model: str = "llama") -> None:
    """A notebook whose first cell makes its page the target."""
    write_notebook(lab.root / "page.ipynb", [MODEL.replace("NAME", model), *cells])
    lab.open("page.ipynb")
    assert lab.run_cell(0)
    expect(state(lab)).to_contain_text("Ready: ", timeout=30_000)


def state(lab: Lab):
    return lab.output(0).get_by_role("status")


def judged(lab: Lab) -> int:
    return int(lab.execute("print(len(session.report.introduced))"))


def assert_is_llama(lab: Lab) -> None:
    """Everything was judged on the page: what WGSL has no word for was rejected there."""
    counts = ast.literal_eval(lab.execute(COUNTS))
    assert sum(counts.values()) == int(lab.execute("print(len(session.graph))"))
    assert counts["PASS"] > 100
    # Of sine and cosine WGSL promises 2^-11, which SwiftShader uses up; bool it does not have.
    assert set(counts) <= {"PASS", "SKIPPED", "COMPILE_ERROR", "FAIL"}
    assert counts.get("FAIL", 0) <= 2


def screenshot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def test_a_whole_llama_in_the_notebooks_own_tab(gpu_lab):
    """While a cell waits for the run, too: the page serves it through a socket of its own."""
    open_page(gpu_lab, "session", "session.run()")
    assert gpu_lab.run_cell(1)
    assert gpu_lab.run_cell(2, timeout=120)
    assert_is_llama(gpu_lab)
    expect(state(gpu_lab)).to_contain_text("This page is the target")
    state(gpu_lab).scroll_into_view_if_needed()
    screenshot(gpu_lab.page, "page-target")


def test_the_tab_closed_in_mid_run_and_opened_again(gpu_browser, gpu_lab):
    """The kernel goes on; the notebook's output finds the widget there again."""
    open_page(gpu_lab, "session.run(wait=False);")
    assert gpu_lab.run_cell(1)
    until(gpu_lab, lambda: judged(gpu_lab) > 5, 60)
    gpu_lab.save()
    gpu_lab.page.close()
    with new_page(gpu_browser) as page:
        again = Lab(page, gpu_lab.server)
        again.return_to("page.ipynb")
        expect(state(again)).to_contain_text("This page", timeout=30_000)
        again.execute("session.wait(progress=False); None", timeout=120)
        assert_is_llama(again)
        assert again.execute("print(session.report.info.restarts)").strip() == "1"


def test_behind_a_hub(playwright: Playwright, kernel_cache, tmp_path, request):
    """The page is another machine's: it reaches the target through the Jupyter server alone."""
    arguments = ["--ServerApp.base_url=/user/ada/", "--ServerApp.allow_remote_access=True"]
    with serve(tmp_path, environment=cache(kernel_cache), arguments=arguments) as server:
        away = server.url.replace("127.0.0.1", "hub.example")
        origin = away.removesuffix("/user/ada")
        resolver = "--host-resolver-rules=MAP hub.example 127.0.0.1"
        secure = f"--unsafely-treat-insecure-origin-as-secure={origin}"  # for want of https
        with launch(playwright, *WEBGPU, resolver, secure) as browser:
            with new_lab(browser, server, request) as lab:
                lab.server = replace(server, url=away)
                sockets: list[str] = []
                lab.page.on("websocket", lambda socket: sockets.append(socket.url))
                open_page(lab, "session.run()", model="two_layers")
                assert lab.run_cell(1, timeout=120)
                assert ast.literal_eval(lab.execute(COUNTS)) == {"PASS": 3}
                assert [url for url in sockets if url.endswith("/device")]
                assert all(url.startswith(origin.replace("http", "ws")) for url in sockets)
                link = lab.output(0).get_by_role("link").get_attribute("href")
                assert link.startswith(f"{away}/tapml-nb/")
                # A page of its own behind that link takes the next session; strangers get nothing.
                with new_page(browser) as stranger:
                    stranger.goto(link)
                    assert "/user/ada/login" in stranger.url
                other = lab.page.context.new_page()
                other.goto(link)
                expect(other.get_by_role("status")).to_contain_text("Ready: ", timeout=30_000)
