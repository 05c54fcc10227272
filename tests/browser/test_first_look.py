"""What a workbench shows before anybody has touched it, in whatever host: the worst cause in the
middle, masks and positions folded, the outputs in words, the plot by layers, no still picture.
"""

from __future__ import annotations

import base64

import numpy as np
import pytest

import tapml_nb as tapml
from tapml_nb.report.protocol import overlay
from tapml_nb.widgets.feed import feed_of
from tapml_nb.widgets.views import DivergencePlot, still_table
from tests.browser.bare import BarePage
from tests.models import llama, two_layers

CULPRIT = "model.layers.2.mlp.act_fn/silu"
UNTOUCHED = {"op": -1, "step": 0, "origin": ""}


def bad(x):
    y = x / (1 + np.exp(-x))
    y[..., -3:] *= np.float32(1.5)
    return y


@pytest.fixture(scope="module")
def judged():
    """A Llama of four layers with one broken kernel, judged."""
    with tapml.debug(*llama(4), target="llvm", name="Llama") as session:
        session.override(CULPRIT, bad)
        session.run()
        yield session


@pytest.fixture
def bench(page, judged):
    """The whole workbench, as nobody has touched it."""
    feed = feed_of(judged)
    feed.selection, feed.memory = dict(UNTOUCHED), {}
    bare = BarePage(page, feed)
    yield bare
    assert bare.errors == []


def name(session, selection):
    return session.graph.ops[selection["op"]].id


class TestFirstLook:
    def test_the_worst_cause_is_selected_and_in_the_middle_of_the_graph(self, bench, judged):
        assert name(judged, feed_of(judged).selection) == CULPRIT
        bench.until(lambda: "everything at indices" in bench.text(".tapml-diagnosis"))
        assert bench["h3"].first.text_content() == CULPRIT
        # what is hovered in the middle of the canvas is the culprit
        box = bench[".tapml-canvas"].bounding_box()
        bench.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        bench.until(lambda: CULPRIT in bench.text(".tapml-graph .tapml-tip"))

    def test_masks_and_positions_are_one_closed_group(self, bench):
        spoken = bench[".tapml-graph .tapml-spoken[aria-live]"]
        bench[".tapml-canvas"].focus()
        heard = []
        for key in ["Home", *["ArrowDown"] * 5]:
            bench.page.keyboard.press(key)
            heard.append(spoken.text_content())
        group = next(words for words in heard if "masks and positions" in words)
        assert group.startswith("model.masks and positions: ")
        assert group.endswith("closed")
        assert "1 COMPILE_ERROR" in group, "what is missing there shows"
        assert not any("model/arange" in words for words in heard)

    def test_what_somebody_selected_stays(self, page, judged):
        feed = feed_of(judged)
        feed.selection, feed.memory = {"op": 3, "step": 0, "origin": "me"}, {}
        bare = BarePage(page, feed, ["inspector"])
        assert bare["h3"].first.text_content() == judged.graph.ops[3].id

    def test_a_run_that_ends_leads_to_the_fault(self, page):
        with tapml.debug(*two_layers(), target="llvm") as session:
            session.override("act", lambda x: 2 * x)
            bare = BarePage(page, feed_of(session))
            assert "Select an operator" in bare.text(".tapml-panel")
            bare.button("Run").click()
            bare.until(lambda: bare["h3"].first.text_content() == "act/silu")
            bare.until(lambda: "run done" in bare.text(".tapml-work"))
            assert bare.errors == []


class TestOutputs:
    def test_the_status_says_what_is_known_of_them(self, page):
        with tapml.debug(*two_layers(), target="llvm") as session:
            bare = BarePage(page, feed_of(session), ["status"])
            line = bare[".tapml-outputs"]

            def says(words):
                bare.until(lambda: words in line.text_content())

            session.override("act", lambda x: 2 * x)
            session.run()
            says("? outputs not known: nothing is on the target")
            session.offload("*")
            says("? outputs not known: run hybrid()")
            session.hybrid()
            says("✗ outputs differ: ")
            assert session.report.told.endswith(line.text_content().removeprefix("✗ "))
            session.restore("act")
            says("? outputs not known: run hybrid()")
            session.hybrid()
            says("✓ outputs right with 2 of 3 operators offloaded")


class TestPlot:
    def test_layers_have_names_and_a_click_on_one_zooms_to_it(self, bench):
        bands = bench[".tapml-bands button"]
        assert [t for t in bands.all_text_contents() if t][-5:-1] == ["0", "1", "2", "3"] or [
            t for t in bands.all_text_contents() if t.startswith("layers.")
        ] == [f"layers.{k}" for k in range(4)]
        bench.page.get_by_role("button", name="Zoom to model.layers.2", exact=True).click()
        heading = bench[".tapml-plot strong"]
        assert heading.text_content() == "Divergence in model.layers.2"
        inner = [b.get_attribute("aria-label") for b in bands.all()]
        assert "Zoom to mlp" in inner
        assert "Zoom to model.layers.1" not in inner
        bench.button("show all").click()
        assert heading.text_content() == "Divergence by layer"

    def test_a_key_zooms_to_the_selected_operators_layer(self, bench):
        bench[".tapml-plot-stage"].focus()
        bench.page.keyboard.press("z")
        heading = bench[".tapml-plot strong"]
        assert heading.text_content() == "Divergence in model.layers.2"
        bench.page.keyboard.press("Escape")
        assert heading.text_content() == "Divergence by layer"

    def test_another_report_is_drawn_beside_it(self, page, judged):
        before = judged.report
        with tapml.debug(*two_layers(), target="llvm") as session:
            session.override("act", lambda x: 2 * x)
            broken = session.run()
            session.override("act", None)
            session.run()
            number = {op.id: k for k, op in enumerate(session.graph.ops)}
            against = overlay(broken, number)
            values = np.frombuffer(against["values"], "<f4").reshape(5, 3)
            assert values[0, 1] == np.float32(broken.worst_ratio("act/silu"))
            assert values[4].tolist() == [0, 1, 0]
            state = {**against, "values": base64.b64encode(against["values"]).decode()}
            bare = BarePage(page, feed_of(session), ["plot"], state={"_against": state})
            assert broken.title in bare.text(".tapml-plot .tapml-bar")
            over = bare[".tapml-plot .u-over"]
            box = over.bounding_box()
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            bare.until(lambda: "act/silu\nPASS" in bare.text(".tapml-plot .tapml-tip"))
            said = bare.text(".tapml-plot .tapml-tip").splitlines()[2]
            assert said.startswith(f"{broken.title}: introduced ")
            assert bare.errors == []
            with pytest.raises(ValueError, match=r"^against: "):
                DivergencePlot(session, against=before)


IMAGE = '<img alt="still" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">'
HOSTS = {
    "jupyterlab": '<div class="jp-OutputArea-child"><div></div><div class="jp-OutputArea-output">'
    "{}</div></div>",
    "nested": '<div class="output_container"><div class="output"><div>{}</div></div></div>',
    "flat": "{}",
}


class TestStill:
    """The still picture and table, which other places show, hide wherever the workbench lives."""

    @pytest.mark.parametrize("host", HOSTS)
    def test_they_hide_behind_a_living_workbench_in_any_host(self, page, judged, host):
        table = still_table(judged.report, id(judged))
        wrap = HOSTS[host].format
        still = wrap(f"<div>{IMAGE}</div>") + wrap(f"<div>{table}</div>")
        cell = f'<div class="cell">{wrap("<div class=host></div>")}{still}</div>'
        mine = f'<div class="cell">{wrap("<div><img alt=mine></div>")}</div>'
        gone = f'<div class="cell gone">{wrap("<div>no kernel</div>")}{still}</div>'
        bare = BarePage(page, feed_of(judged), ["status"], body=cell + mine + cell + gone)
        live = bare[".cell:has(.host)"]
        assert live.count() == 2
        for each in live.all():
            assert each.locator("[alt=still]").is_hidden()
            assert each.locator("table").first.is_hidden()
            assert each.locator(".tapml-status").is_visible()
        assert bare["[alt=mine]"].evaluate("(e) => e.getClientRects().length") == 1
        assert bare[".gone table"].first.is_visible(), "there no workbench lives"
        assert bare[".gone [alt=still]"].is_visible()
        page.evaluate("() => window.tapmlEnd.slice(1).forEach((end) => end())")
        assert live.first.locator("table").first.is_visible()

    def test_those_of_another_session_stay(self, page, judged):
        table = still_table(judged.report, id(judged) + 1)
        body = f'<div class=host></div><div>{IMAGE}</div><div class="other">{table}</div>'
        bare = BarePage(page, feed_of(judged), ["status"], body=body)
        assert bare[".other table"].first.is_visible()
        assert bare["[alt=still]"].is_visible()

    def test_no_key_pressed_in_the_workbench_reaches_its_host(self, bench):
        bench.page.evaluate(
            """() => {
              window.heard = [];
              document.body.tabIndex = 0;
              for (const name of ["keydown", "keyup"])
                document.addEventListener(name, (e) => window.heard.push(e.key));
            }"""
        )
        for part in (".tapml-canvas", ".tapml-plot-stage", "[role=grid]", ".tapml-heat canvas"):
            bench[part].first.focus()
            for key in ("a", "d", "x", "Enter"):
                bench.page.keyboard.press(key)
        assert bench.page.evaluate("() => window.heard") == []
        bench["body"].focus()
        bench.page.keyboard.press("d")
        assert bench.page.evaluate("() => window.heard") == ["d", "d"]
