"""A report's page, opened from a file: the workbench's views without a kernel or a network."""

from __future__ import annotations

import pytest

from tapml_nb import Verdict
from tests.report.test_snapshot import blocks, chain, judged

EVIL = "</script><img src=x onerror=document.title='gone'>"


@pytest.fixture
def opened(page, tmp_path):
    """Opens the page of a report; what its console says fails the test."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.route("http*://**", lambda route: said.append(route.request.url) or route.abort())

    def open_(report):
        page.goto(report.to_html(tmp_path / "report.html").as_uri())
        page.wait_for_selector(".tapml-whole")
        return page

    yield open_
    assert said == []


def test_it_shows_the_fault_and_what_is_known_of_it(opened):
    graph = chain(blocks(5))
    fault = graph.ops[7].id
    page = opened(judged(graph, {fault: Verdict.FAIL}))
    assert fault in page.locator(".tapml-culprits").inner_text()
    inspector = page.locator(".tapml-inspector")
    assert "FAIL" in inspector.inner_text()
    assert page.locator(".tapml-whole canvas").count() >= 3
    # What is known of another operator is in the page, too.
    page.get_by_placeholder("filter").fill(graph.ops[3].id)
    page.locator(".tapml-rows").get_by_text(graph.ops[3].id).click()
    page.wait_for_function(
        "id => document.querySelector('.tapml-inspector').innerText.includes(id)",
        arg=graph.ops[3].id,
    )
    assert "PASS" in inspector.inner_text()


def test_what_needs_a_session_is_not_offered(opened):
    page = opened(judged(chain(blocks(3))))
    text = page.locator(".tapml-whole").inner_text()
    for word in ("re-run", "Tensors", "Code", "Try a fix", "Hybrid"):
        assert word not in text
    boxes = page.locator(".tapml-rows input[type=checkbox]")
    assert boxes.count() == 9
    assert all(boxes.nth(k).is_disabled() for k in range(9))


def test_names_are_text(opened):
    graph = chain([EVIL, "good"], name=EVIL, kinds=[EVIL])
    page = opened(judged(graph, {graph.ops[0].id: Verdict.FAIL}))
    assert page.title().startswith(EVIL)
    assert page.locator("img").count() == 0


def test_without_scripts_there_are_pictures(page, tmp_path):
    path = judged(chain(blocks(3))).to_html(tmp_path / "report.html")
    context = page.context.browser.new_context(java_script_enabled=False)
    still = context.new_page()
    still.goto(path.as_uri())
    assert still.get_by_role("img").count() == 2
    context.close()
