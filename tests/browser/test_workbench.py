"""The workbench's views in Chromium, on a real session: mouse, keyboard, live results, text."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tapml_nb as tapml
from tapml_nb import Target, Verdict
from tapml_nb.execute.events import OpJudged, OpStarted, RunFinished, RunStarted
from tapml_nb.judge.results import OpResult
from tapml_nb.widgets.feed import feed_of
from tests.browser.bare import DARK, BarePage
from tests.models import llama, two_layers

CULPRIT = "model.layers.1.mlp.act_fn/silu"


def bad_tail(x):
    y = x / (1 + np.exp(-x))
    y[..., -3:] *= np.float32(1.01)
    return y


def off_by(factor):
    def tail(x):
        y = x / (1 + np.exp(-x))
        y[..., -3:] *= np.float32(factor)
        return y

    return tail


@pytest.fixture(scope="module")
def judged():
    """A Llama with one broken kernel, judged."""
    with tapml.debug(*llama(), target="llvm", name="Llama") as session:
        session.override(CULPRIT, bad_tail)
        session.run()
        yield session


@pytest.fixture
def session():
    with tapml.debug(*two_layers(), target=Target("llvm", timeout=5.0)) as session:
        yield session


@pytest.fixture
def bench(page, judged):
    """The whole workbench on the judged Llama, as it was at first."""
    feed = feed_of(judged)
    feed.selection, feed.memory = {"op": -1, "step": 0}, {}
    judged.restore("*")
    bare = BarePage(page, feed)
    yield bare
    assert bare.errors == []


def number(session, name):
    return next(k for k, op in enumerate(session.graph.ops) if op.id == name)


def selected(session):
    op = feed_of(session).selection["op"]
    return session.graph.ops[op].id if op >= 0 else None


class TestGraph:
    def test_the_keyboard_goes_everywhere(self, bench, judged):
        canvas = bench[".tapml-canvas"]
        spoken = bench[".tapml-graph .tapml-spoken[aria-live]"]
        canvas.focus()
        bench.page.keyboard.press("Home")
        bench.until(lambda: "model: " in spoken.text_content())
        assert "1 FAIL" in spoken.text_content()
        for _ in range(150):
            if "model.layers.1:" in spoken.text_content():
                break
            bench.page.keyboard.press("ArrowDown")
        bench.until(lambda: "model.layers.1:" in spoken.text_content())
        assert "closed" in spoken.text_content()
        bench.page.keyboard.press("Enter")
        bench.page.keyboard.press("ArrowDown")
        bench.until(lambda: "model.layers.1.input_layernorm" in spoken.text_content())
        bench.page.keyboard.press("ArrowLeft")
        bench.page.keyboard.press("ArrowLeft")
        bench.until(lambda: "model.layers.1:" in spoken.text_content())

    def test_space_toggles_a_whole_scope(self, bench, judged):
        spoken = bench[".tapml-graph .tapml-spoken[aria-live]"]
        bench[".tapml-canvas"].focus()
        bench.page.keyboard.press("End")
        bench.until(lambda: "lm_head" in spoken.text_content())
        bench.page.keyboard.press(" ")
        bench.until(lambda: judged.placement["lm_head/linear"] == "target")
        bench.page.keyboard.press(" ")
        bench.until(lambda: judged.placement["lm_head/linear"] == "source")

    def test_a_double_click_toggles(self, bench, judged):
        # lm_head is the last box: the fitted graph's lower edge
        bench[".tapml-canvas"].focus()
        bench.page.keyboard.press("f")
        box = bench[".tapml-canvas"].bounding_box()
        x = box["x"] + box["width"] / 2
        for y in range(int(box["y"] + box["height"]) - 26, int(box["y"]), -6):
            bench.page.mouse.click(x, y)
            if "lm_head" in bench.text(".tapml-graph .tapml-spoken[aria-live]"):
                break
        bench.page.wait_for_timeout(500)
        bench.page.mouse.dblclick(x, y)
        bench.until(lambda: judged.placement["lm_head/linear"] == "target")

    def test_a_marquee_marks_many(self, bench, judged):
        bench[".tapml-canvas"].focus()
        bench.page.keyboard.press("f")
        box = bench[".tapml-canvas"].bounding_box()
        bench.page.keyboard.down("Shift")
        bench.page.mouse.move(box["x"] + 3, box["y"] + 3)
        bench.page.mouse.down()
        bench.page.mouse.move(box["x"] + box["width"] - 3, box["y"] + box["height"] - 3, steps=4)
        bench.page.mouse.up()
        bench.page.keyboard.up("Shift")
        bench.until(lambda: "marked" in bench.text(".tapml-graph .tapml-spoken[aria-live]"))
        bench.page.keyboard.press(" ")
        bench.until(lambda: sum(w == "target" for w in judged.placement.values()) > 100)
        assert judged.placement["model/cumsum"] == "source"  # it has no kernel
        bench.until(lambda: "model/cumsum" in bench.text(".tapml-status [role=alert]"))

    def test_the_keyboard_marks_many(self, bench, judged):
        bench[".tapml-canvas"].focus()
        for key in ("End", "m", "ArrowUp", "m", " "):
            bench.page.keyboard.press(key)
        last = [op.id for op in judged.graph.ops[-2:]]
        bench.until(lambda: all(judged.placement[op] == "target" for op in last))
        assert sum(where == "target" for where in judged.placement.values()) < 10

    def test_it_follows_the_run_if_asked(self, bench, judged):
        canvas = bench[".tapml-canvas"]
        bench.press(".tapml-canvas", "+", 6)
        canvas.focus()
        for _ in range(20):  # to where no box is
            bench.page.keyboard.press("Shift+ArrowLeft")

        def work_on(op):
            judged.engine.events.emit(RunStarted("introduced", 1))
            judged.engine.events.emit(OpStarted("introduced", op, 0, "target"))
            bench.until(lambda: op in bench.text(".tapml-work"))
            bench.page.wait_for_timeout(60)
            picture = canvas.screenshot()
            judged.engine.events.emit(RunFinished("introduced", False))
            return picture

        assert work_on("lm_head/linear") == work_on("model.embed_tokens/embedding")
        bench.page.get_by_label("follow").check()
        assert work_on("lm_head/linear") != work_on("model.embed_tokens/embedding")

    def test_the_minimap_jumps(self, bench):
        canvas = bench[".tapml-canvas"]
        bench.press(".tapml-canvas", "+", 6)
        bench.page.wait_for_timeout(60)
        before = canvas.screenshot()
        bench[".tapml-minimap"].click(position={"x": 55, "y": 118})
        bench.page.wait_for_timeout(60)
        assert canvas.screenshot() != before

    def test_search_finds_and_opens(self, bench, judged):
        bench[".tapml-canvas"].focus()
        bench.page.keyboard.press("/")
        bench.page.keyboard.type("act_fn")
        assert bench.text(".tapml-graph .tapml-bar .tapml-dim") == "2 operators"
        bench.page.keyboard.press("Enter")
        bench.until(lambda: selected(judged) == "model.layers.0.mlp.act_fn/silu")
        bench.page.keyboard.press("Enter")
        bench.until(lambda: selected(judged) == CULPRIT)
        bench.until(lambda: "model.layers.1.mlp" in feed_of(judged).memory.get("open", []))
        bench.page.keyboard.press("Escape")
        assert bench[".tapml-search"].input_value() == ""

    def test_what_was_open_is_open_again_in_a_new_page(self, bench, judged, browser):
        bench.button("Close every scope").click()
        bench.until(lambda: feed_of(judged).memory.get("open") == [])
        page = browser.new_page()
        again = BarePage(page, feed_of(judged))
        page.locator(".tapml-canvas").focus()
        page.keyboard.press("Home")
        spoken = again[".tapml-graph .tapml-spoken[aria-live]"]
        again.until(lambda: "closed" in spoken.text_content())
        page.close()


class TestTable:
    def test_filters_and_sorting(self, bench):
        rows = bench[".tapml-rows .tapml-row"]
        bench["[aria-label='Filter by verdict']"].select_option("missing")
        assert rows.count() == 1
        assert "COMPILE_ERROR" in rows.first.text_content()
        bench["[aria-label='Filter by verdict']"].select_option("culprits")
        assert rows.count() == 1
        bench["[aria-label='Filter operators by text']"].fill("silu")
        assert rows.count() == 1
        assert CULPRIT in rows.first.text_content()
        bench["[aria-label='Filter operators by text']"].fill("")
        bench["[aria-label='Filter by verdict']"].select_option("")
        bench["[aria-label='Filter by kind']"].select_option("aten.silu")
        assert rows.count() == 2
        bench["[aria-label='Filter by kind']"].select_option("")
        bench.page.get_by_role("button", name="ratio", exact=True).click()
        assert CULPRIT in rows.first.text_content()
        header = bench["[role=columnheader]:has-text('ratio')"].first
        assert header.get_attribute("aria-sort") == "descending"

    def test_only_rows_in_view_exist(self, bench, judged):
        assert bench["[role=grid]"].get_attribute("aria-rowcount") == str(len(judged.graph) + 1)
        assert bench[".tapml-rows .tapml-row"].count() < 40

    def test_checkboxes_place_and_follow(self, bench, judged):
        bench["[aria-label='Filter operators by text']"].fill("layers.0.mlp.act_fn")
        box = bench[".tapml-rows input[type=checkbox]"]
        box.check()
        bench.until(lambda: judged.placement["model.layers.0.mlp.act_fn/silu"] == "target")
        judged.restore("model.layers.0.mlp.act_fn/silu")
        bench.until(lambda: not box.is_checked())

    def test_the_keyboard(self, bench, judged):
        grid = bench["[role=grid]"]
        grid.focus()
        bench.page.keyboard.press("End")
        bench.until(lambda: selected(judged) == "lm_head/linear")
        bench.page.keyboard.press(" ")
        bench.until(lambda: judged.placement["lm_head/linear"] == "target")
        bench.page.keyboard.press("ArrowUp")
        bench.until(lambda: selected(judged) == judged.graph.ops[-2].id)
        assert bench[".tapml-rows [aria-selected=true]"].count() == 1


class TestPlot:
    def test_hover_names_and_click_selects(self, bench, judged):
        over = bench[".tapml-plot .u-over"]
        over.scroll_into_view_if_needed()
        box = over.bounding_box()
        share = (number(judged, CULPRIT) + 1) / (len(judged.graph) + 1)
        at = (box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        bench.page.mouse.move(*at)
        bench.until(lambda: "mlp.act_fn/silu" in bench.text(".tapml-plot .tapml-tip"))
        assert "FAIL; introduced" in bench.text(".tapml-plot .tapml-tip")
        bench.page.mouse.click(*at)
        bench.until(lambda: selected(judged) == CULPRIT)

    def test_the_keyboard_goes_from_fault_to_fault(self, bench, judged):
        bench[".tapml-plot-stage"].focus()
        bench.page.keyboard.press("Home")
        bench.until(
            lambda: selected(judged) == judged.graph.ops[0].id
        )  # not what was clicked before
        bench.page.keyboard.press("ArrowDown")
        bench.until(lambda: selected(judged) == "model/cumsum")
        bench.page.keyboard.press("ArrowDown")
        bench.until(lambda: selected(judged) == CULPRIT)
        bench.page.keyboard.press("ArrowRight")
        bench.until(lambda: selected(judged) == judged.graph.ops[number(judged, CULPRIT) + 1].id)

    def test_the_keyboard_zooms(self, bench):
        over = bench[".tapml-plot .u-over"]
        bench[".tapml-plot-stage"].focus()
        bench.page.keyboard.press("Home")
        bench.page.wait_for_timeout(60)
        pictures = []
        for key in ("+", "-", "+", "Escape"):
            before = over.screenshot()
            bench.page.keyboard.press(key)
            bench.page.wait_for_timeout(60)
            pictures += [before, over.screenshot()]
        assert pictures[0] == pictures[3] == pictures[7] != pictures[1] == pictures[5]

    def test_a_brush_zooms(self, bench):
        over = bench[".tapml-plot .u-over"]
        over.scroll_into_view_if_needed()
        box = over.bounding_box()
        before = over.screenshot()
        y = box["y"] + 60
        bench.page.mouse.move(box["x"] + 100, y)
        bench.page.mouse.down()
        bench.page.mouse.move(box["x"] + 200, y, steps=3)
        bench.page.mouse.up()
        bench.page.mouse.move(0, 0)
        bench.page.wait_for_timeout(100)
        assert over.screenshot() != before
        bench.button("show all").click()
        bench.page.mouse.move(0, 0)
        bench.page.wait_for_timeout(100)
        assert over.screenshot() == before

    def test_points_arrive_while_the_run_goes_on(self, page, session):
        bare = BarePage(page, feed_of(session), ["plot"])
        page.evaluate(
            "() => { window.counts = []; addEventListener('tapml-painted', (e) =>"
            " window.counts.push(e.detail.received)); }"
        )
        ops = [op.id for op in session.graph.ops]

        def counted(count: int) -> bool:
            return count in page.evaluate("() => window.counts")

        for k in range(6):
            op = ops[k % 3]
            session.engine.events.emit(OpJudged(op, 0, OpResult(op, 0, Verdict.PASS, ratio=1.0)))
            bare.until(partial(counted, k + 1))
        assert page.evaluate("() => window.counts.slice(-6)") == [1, 2, 3, 4, 5, 6]


class TestCulprit:
    def test_a_click_shows_why_and_where(self, bench, judged):
        culprits = bench[".tapml-culprits button"]
        assert [c.get_attribute("title") for c in culprits.all()] == [
            f"{CULPRIT}: FAIL",
            "model/cumsum: COMPILE_ERROR",
        ]
        culprits.first.click()
        bench.until(lambda: selected(judged) == CULPRIT)
        bench.until(lambda: "noise floors" in bench.text(".tapml-why"))
        diagnosis = bench.text(".tapml-diagnosis")
        assert "everything at indices 125 to 127 of axis 2 (size 128) is wrong" in diagnosis
        assert "they are 1.01 times what they should be" in diagnosis
        assert "usual cause" in diagnosis
        assert "activations.py" in bench.text(".tapml-line")
        bench.until(lambda: "difference" in bench.text(".tapml-heat .tapml-caption"))
        bench.until(lambda: bench[".tapml-heat .tapml-legend-labels span"].count() == 3)
        bench.until(lambda: "bad block" in bench.text(".tapml-heat .tapml-bar"))
        # the broken columns are the brightest: read the picture's pixels
        canvas = bench[".tapml-heat-stage canvas"]
        canvas.focus()
        bench.page.keyboard.press("ArrowDown")
        bench.press(".tapml-heat-stage canvas", "ArrowRight", 200)
        tip = bench.text(".tapml-heat .tapml-tip")
        assert ", 127]" in tip
        assert tip.endswith(", beyond the limit")
        worst = float(tip.removesuffix(", beyond the limit").rpartition(": ")[2])
        assert abs(worst) == pytest.approx(
            np.abs(judged.tensor(CULPRIT, "difference")[0, 0, 127]), rel=0.06
        )

    def test_a_click_on_what_is_selected_already_shows_it_again(self, bench, judged):
        """It may have been selected, by a search say, before a run found that it is broken."""
        line = bench[".tapml-culprits button"].first
        line.click()
        bench.until(lambda: "difference" in bench.text(".tapml-heat .tapml-caption"))
        bench["[aria-label='What the heatmap shows']"].select_option("kind")
        bench.until(lambda: "difference" not in bench.text(".tapml-heat .tapml-caption"))
        line.click()
        bench.until(lambda: f"{CULPRIT}: difference" in bench.text(".tapml-heat .tapml-caption"))

    def test_the_compile_error_shows_its_code(self, bench):
        bench[".tapml-culprits button"].nth(1).click()
        bench.until(lambda: "CodeGenLLVM" in bench.text(".tapml-why"))
        bench.page.get_by_role("tab", name="Code").click()
        bench.until(lambda: "prim_func" in bench.text("pre.tapml-code"))

    def test_tensors(self, bench):
        bench[".tapml-culprits button"].first.click()
        bench.page.get_by_role("tab", name="Tensors").click()
        bench.until(lambda: bench[".tapml-values li"].count() == 4)
        assert "float32[1, 12, 128]" in bench[".tapml-values li"].nth(1).text_content()

    def test_a_fix_is_tried_at_once(self, bench, judged):
        bench[".tapml-culprits button"].first.click()
        bench.page.get_by_role("tab", name="Try a fix").click()
        area = bench["textarea"]
        bench.until(lambda: area.count() == 1)
        area.fill("import numpy as np\ndef fixed(x):\n    return x / (1 + np.exp(-x))")
        bench.button("try it").click()
        try:
            # An override takes its verdict from the list before the new one is there.
            bench.until(lambda: judged.report.verdict(CULPRIT) is Verdict.PASS)
            bench.until(lambda: bench[".tapml-culprits button"].count() == 1)
        finally:
            judged.wait()
            judged.override(CULPRIT, bad_tail)
            judged.run(CULPRIT)

    def test_tabs_by_keyboard(self, bench):
        bench[".tapml-culprits button"].first.click()
        bench.page.get_by_role("tab", name="Verdict").focus()
        bench.page.keyboard.press("ArrowRight")
        chosen = bench["[role=tab][aria-selected=true]"]
        bench.until(lambda: chosen.text_content() == "Tensors")


class TestPresses:
    """A press takes a moment, in which results may come: it ends on what it began on."""

    @pytest.mark.parametrize(
        "place",
        [".tapml-culprits button", ".tapml-rows .tapml-row [role=gridcell]:nth-child(3)"],
        ids=["a culprit", "a row of the table"],
    )
    def test_a_click_is_a_click_while_results_come(self, page, place):
        with tapml.debug(*two_layers(), target="llvm") as session:
            session.override("act", lambda x: x)
            session.run()
            bare = BarePage(page, feed_of(session), ["inspector", "table"])
            (culprit,) = session.report.culprits
            target = bare[place].nth(0 if "culprits" in place else number(session, culprit.op))
            box = target.bounding_box()
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            page.mouse.down()
            page.evaluate(
                "() => { window.painted = 0; addEventListener('tapml-painted',"
                " () => window.painted++); }"
            )
            again = dict(session.report.introduced)
            for result in again.values():
                session.engine.events.emit(OpJudged(result.op, 0, result))
            bare.until(lambda: page.evaluate("() => window.painted"))
            page.wait_for_timeout(400)  # what follows results at leisure has followed
            page.mouse.up()
            bare.until(lambda: selected(session) == culprit.op)
            assert bare.errors == []


class TestLostMessages:
    """A server between the session and its page drops what it likes."""

    def test_a_question_without_an_answer_is_asked_again(self, page, judged):
        class Lossy(BarePage):
            lost = 0

            def send(self, content, buffers=None):
                if content["kind"] == "reply" and content["value"] and not self.lost:
                    self.lost += 1
                else:
                    super().send(content, buffers)

        feed = feed_of(judged)
        feed.selection = {"op": number(judged, CULPRIT), "step": 0}
        bare = Lossy(page, feed, ["inspector"])
        bare.until(lambda: "noise floors" in bare.text(".tapml-why"))
        assert bare.lost == 1

    def test_a_page_that_was_not_heard_says_again_that_it_listens(self, page, judged):
        class Deaf:
            def __init__(self, feed):
                self.feed = feed
                self.heard = 0

            def attach(self, page):
                self.feed.attach(page)

            def receive(self, page, message):
                self.heard += 1
                if self.heard > 1:
                    self.feed.receive(page, message)

        deaf: Any = Deaf(feed_of(judged))
        bare = BarePage(page, deaf, ["table"])
        assert bare[".tapml-rows .tapml-row"].count() > 3

    def test_a_late_snapshot_does_not_take_a_selection_back(self, page, judged):
        feed = feed_of(judged)
        feed.selection = {"op": -1, "step": 0}
        bare = BarePage(page, feed, ["inspector"])
        feed.receive(bare, {"kind": "ready"})
        bare[".tapml-cause button"].first.click()
        bare.until(lambda: selected(judged) == CULPRIT)
        bare.until(lambda: "noise floors" in bare.text(".tapml-why"))
        assert bare.text(".tapml-inspector h3") == CULPRIT


class TestCauses:
    @pytest.fixture(scope="class")
    @classmethod
    def alike(cls):
        """Five layers of which four are broken in one way, and one in another."""
        torch.manual_seed(0)
        layers = [nn.Sequential(nn.Linear(8, 8), nn.SiLU()) for _ in range(5)]
        with tapml.debug(nn.Sequential(*layers).eval(), (torch.randn(3, 8),)) as session:
            for layer in range(4):
                session.override(f"{layer}.1", off_by(1.5 if layer == 2 else 1.01))
            session.override("4.1", lambda x: np.maximum(x, 0) + 1)
            session.run()
            assert sorted(cause.count for cause in session.report.causes) == [1, 4]
            yield session

    def test_a_line_for_each_with_the_worst_and_the_first(self, page, alike):
        bare = BarePage(page, feed_of(alike), ["status", "inspector"])
        lines = bare[".tapml-cause"]
        assert lines.count() == 2
        causes = {cause.count: cause for cause in alike.report.causes}
        assert (causes[4].worst, causes[4].first) == ("2.1/silu", "0.1/silu")
        line = bare[".tapml-cause:has(.tapml-others)"]
        assert causes[4].worst in line.locator("> button").text_content()
        assert line.locator(".tapml-times").text_content() == "\N{MULTIPLICATION SIGN}4"
        line.locator("> button").click()
        bare.until(lambda: selected(alike) == causes[4].worst)
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        bare.until(lambda: selected(alike) == causes[4].first)
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        names = [e.text_content() for e in line.locator(".tapml-all button").all()]
        assert names == list(causes[4].ops)
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        bare.until(lambda: selected(alike) == causes[4].ops[1])
        assert bare.errors == []

    def test_the_same_words_everywhere(self, page, alike):
        bare = BarePage(page, feed_of(alike), ["status", "inspector"])
        words = alike.report.outcome
        assert words == "5 culprits of 2 causes"
        assert bare.text(".tapml-culprits > strong") == words
        assert words in bare.text(".tapml-work")
        alike.override("4.1", None)
        bare.until(lambda: "1 not judged" in bare.text(".tapml-culprits > strong"))
        alike.run("4.1")
        bare.until(lambda: bare.text(".tapml-culprits > strong") == "4 culprits of 1 cause")
        bare.until(lambda: bare.text(".tapml-work").endswith("4 culprits of 1 cause"))
        assert bare.errors == []


class TestHeatmap:
    def test_layers_by_kind_metric_and_step(self, bench, judged):
        modes = bench["[aria-label='What the heatmap shows']"]
        canvas = bench[".tapml-heat-stage canvas"]
        tip = bench[".tapml-heat .tapml-tip"]
        for mode, text in (
            ("kind", "model.layers.1, aten.silu"),
            ("metric", "model.layers.1, ratio"),
        ):
            modes.select_option(mode)
            canvas.focus()
            found = set()
            for _ in range(4):
                bench.page.keyboard.press("ArrowDown")
                found.add(tip.text_content())
                for _ in range(20):
                    bench.page.keyboard.press("ArrowRight")
                    found.add(tip.text_content())
                bench.press(".tapml-heat-stage canvas", "ArrowLeft", 40)
            (cell,) = [t for t in found if t.startswith(text)]
            assert CULPRIT in cell
        modes.select_option("step")
        assert bench.text(".tapml-heat .tapml-legend-labels").startswith("0.01 floors")

    def test_token_positions(self, bench, judged):
        bench["[aria-label='What the heatmap shows']"].select_option("position")
        caption = bench[".tapml-heat .tapml-caption"]
        bench.until(lambda: "judged operators" in caption.text_content())
        bench[".tapml-heat-stage canvas"].focus()
        bench.page.keyboard.press("ArrowDown")
        assert "position 0" in bench.text(".tapml-heat .tapml-tip")

    def test_what_is_out_of_sight_is_told_and_one_press_away(self, bench, judged):
        rows = bench["[aria-label='Rows of the heatmap']"]
        bench["[aria-label='What the heatmap shows']"].select_option("kind")
        bench["[aria-label='Order of rows and columns']"].select_option("model")
        rows.select_option("op")
        stage = bench[".tapml-heat-stage"]
        bench.until(lambda: stage.evaluate("e => e.scrollTop") > 0)  # the culprit is in sight
        stage.evaluate("e => e.scrollTo(0, 0)")
        bench.until(lambda: "floors" in bench.text(".tapml-outside"))
        below = bench[".tapml-outside button"].filter(has_text="below")
        worst = f"{judged.report.worst_ratio(CULPRIT):.0f}"
        assert f"more rows below, worst {worst} floors" in below.text_content()
        below.click()
        bench.until(lambda: bench.text(".tapml-heat .tapml-tip").startswith(CULPRIT))
        assert stage.evaluate("e => e.scrollTop") > 0
        bench.until(lambda: "more rows above" in bench.text(".tapml-outside"))
        seen = f"worst {worst} floors"
        assert seen not in bench.text(".tapml-outside"), "it is in sight"

    def test_only_what_is_beyond_the_limit_and_back(self, bench):
        caption = bench[".tapml-heat .tapml-caption"]
        bench["[aria-label='What the heatmap shows']"].select_option("kind")
        bench.until(lambda: "kinds of views only" in caption.text_content())
        canvas = bench[".tapml-heat-stage canvas"]
        page, tip = bench.page, bench[".tapml-heat .tapml-tip"]
        bench["[title^='Only rows and columns'] input"].check()
        canvas.focus()
        for key in ("ArrowDown", "ArrowRight", "ArrowDown"):
            page.keyboard.press(key)
            assert tip.text_content().startswith("model.layers.1, aten.silu: "), "the one cell"
        assert "beyond the limit" in tip.text_content()
        bench["[title^='Only rows and columns'] input"].uncheck()
        bench["[title^='Rows and columns of views'] input"].check()
        bench.until(lambda: "views" not in caption.text_content())

    def test_n_goes_to_what_is_beyond_the_limit(self, bench):
        bench["[aria-label='What the heatmap shows']"].select_option("kind")
        bench[".tapml-heat-stage canvas"].focus()
        bench.page.keyboard.press("n")
        cell = bench.text(".tapml-heat .tapml-tip")
        assert cell.startswith("model.layers.1, aten.silu: ")
        bench.page.keyboard.press("Shift+N")
        assert bench.text(".tapml-heat .tapml-tip") == cell, "there is no other"

    def test_what_a_shortened_label_stands_for(self, bench):
        """The pointer on a label shows the whole name."""
        bench["[aria-label='What the heatmap shows']"].select_option("op")
        bench["[aria-label='Rows of the heatmap']"].select_option("kind")
        canvas = bench[".tapml-heat-stage canvas"]
        tip = bench[".tapml-heat .tapml-tip"]
        found = set()
        height = canvas.bounding_box()["height"]
        for y in range(4, int(height), 16):
            canvas.hover(position={"x": 10, "y": y})
            found.add(tip.text_content())
        assert "aten.linear" in found, "its label is without the library's name"

    def test_axes_that_only_python_knows(self, bench):
        bench["[aria-label='What the heatmap shows']"].select_option("head")
        caption = bench[".tapml-heat .tapml-caption"]
        bench.until(lambda: "have an axis of heads" in caption.text_content())
        bench[".tapml-heat-stage canvas"].focus()
        bench.page.keyboard.press("ArrowDown")
        assert "head 0: " in bench.text(".tapml-heat .tapml-tip")
        bench["[aria-label='Rows of the heatmap']"].select_option("position")
        bench.until(lambda: "was not measured" in caption.text_content())
        bench["[aria-label='Rows of the heatmap']"].select_option("layer")
        bench["[aria-label='What the heatmap shows']"].select_option("layer")
        assert "choose another" in caption.text_content()

    def test_bad_blocks_of_a_tensor_by_key_and_button(self, page):
        class Plain(nn.Module):
            def forward(self, x):
                return x * 2

        def off(x, *rest):
            y = x * np.float32(2)
            y[5:8, 100:110] += 1
            y[40, 7] += 1
            return y

        with tapml.debug(Plain().eval(), (torch.randn(64, 128),), target="llvm") as session:
            session.override(session.graph.ops[0].id, off)
            session.run()
            bare = BarePage(page, feed_of(session), ["heatmap", "inspector"])
            bare[".tapml-culprits button"].click()
            caption = bare[".tapml-heat .tapml-caption"]
            bare.until(lambda: "2 bad blocks" in bare.text(".tapml-heat .tapml-bar"), 60)
            bare[".tapml-heat-stage canvas"].focus()
            page.keyboard.press("n")
            first = "block 1 of 2 beyond the limit: [5…7, 100…109]"
            bare.until(lambda: first in caption.text_content())
            bare.button("The next block beyond the limit (n)").click()
            bare.until(lambda: "block 2 of 2 beyond the limit: [40, 7]" in caption.text_content())
            bare[".tapml-heat-stage canvas"].focus()
            page.keyboard.press("Shift+N")
            bare.until(lambda: first in caption.text_content())
            page.keyboard.press("Escape")
            bare.until(lambda: "block" not in caption.text_content())
            assert bare.errors == []

    def test_a_large_tensor_is_pooled_and_zoomed(self, page):
        class Wide(nn.Module):
            def forward(self, x):
                return x * 2

        def off(x, *rest):
            y = x * np.float32(2)
            y[4095, 4095] += 1
            return y

        with tapml.debug(Wide().eval(), (torch.randn(4096, 4096),), target="llvm") as session:
            session.override(session.graph.ops[0].id, off)
            session.run()
            bare = BarePage(page, feed_of(session), ["heatmap", "inspector"])
            bare[".tapml-culprits button"].click()
            caption = bare[".tapml-heat .tapml-caption"]
            bare.until(lambda: "[4096, 4096]" in caption.text_content(), 60)
            bare.until(lambda: "1 bad block" in bare.text(".tapml-heat .tapml-bar"), 60)
            canvas = bare[".tapml-heat-stage canvas"]
            canvas.focus()
            for key in ("ArrowDown", "ArrowRight"):
                bare.press(".tapml-heat-stage canvas", key, 515)
            tip = bare[".tapml-heat .tapml-tip"]
            assert tip.text_content().endswith("[4088…4095, 4088…4095]: 1, beyond the limit")
            page.keyboard.press("Enter")
            bare.until(lambda: bare.button("whole tensor").count() == 1, 60)
            for key in ("ArrowDown", "ArrowRight"):
                bare.press(".tapml-heat-stage canvas", key, 45)
            bare.until(lambda: tip.text_content().endswith("[4095, 4095]: 1, beyond the limit"))
            assert bare.errors == []


class TestSteps:
    def test_steps_are_overlaid_and_chosen(self, page):
        model, (x,) = two_layers()
        with tapml.debug(model, [(x,), (x * 3,)], target="llvm") as session:
            session.override("act", lambda x: x / (1 + np.exp(-x)) + (np.abs(x).max() > 4))
            session.run()
            verdicts = [session.report.verdict("act/silu", step) for step in (0, 1)]
            assert verdicts == [Verdict.PASS, Verdict.FAIL]
            bare = BarePage(page, feed_of(session), ["inspector", "plot", "heatmap"])
            bare[".tapml-culprits button"].click()
            bare.until(lambda: bare.text(".tapml-badge") == "✗ FAIL")
            step = bare["select[aria-label=Step]"]
            assert step.input_value() == "1"
            step.select_option("0")
            bare.until(lambda: bare.text(".tapml-badge") == "✓ PASS")
            bare["[aria-label='What the heatmap shows']"].select_option("step")
            canvas = ".tapml-heat-stage canvas"
            bare.press(canvas, "ArrowDown", 2)
            bare.press(canvas, "ArrowRight")
            assert bare.text(".tapml-heat .tapml-tip").startswith("act, step 1: ")
            assert bare.errors == []


class TestStatus:
    def test_run_and_its_end(self, page, session):
        bare = BarePage(page, feed_of(session), ["status"])
        state = bare[".tapml-state"]
        assert "not started yet" in state.text_content()
        bare.button("Run").click()
        bare.until(lambda: "run done in" in bare.text(".tapml-work"))
        assert f"connected at {session.address}" in state.text_content()
        assert "3 kernels" in bare.text(".tapml-status")
        assert bare.button("Stop").is_disabled()
        assert bare.button("Run").is_enabled()

    def test_migrate_and_localize(self, page, session):
        session.override("act", lambda x: x)
        bare = BarePage(page, feed_of(session), ["status", "table"])
        bare.button("Migrate").click()
        bare.until(lambda: "2 of 3 operators on the target" in bare.text("[role=alert]"))
        assert "quarantined act/silu: FAIL" in bare.text("[role=alert]")
        boxes = bare[".tapml-rows input[type=checkbox]"]
        bare.until(lambda: [b.is_checked() for b in boxes.all()] == [True, False, True])
        session.offload("act")
        bare.button("Localize").click()
        bare.until(lambda: "1 culprit in" in bare.text("[role=alert]"))
        assert "act/silu" in bare.text("[role=alert]")

    def test_stop(self, page, session):
        def slow(*inputs):
            time.sleep(1.5)
            return np.zeros((3, 16), np.float32)

        session.override("first", slow)
        bare = BarePage(page, feed_of(session), ["status"])
        bare.button("Run").click()
        bare.until(lambda: "first/linear" in bare.text(".tapml-work"))
        bare.button("Stop").click()
        bare.until(lambda: "run stopped after" in bare.text(".tapml-work"))
        assert len(session.report.introduced) < len(session.graph)

    def test_the_end_of_the_session(self, page, session):
        bare = BarePage(page, feed_of(session), ["status", "table"])
        session.run()
        session.close()
        bare.until(lambda: "closed" in bare.text(".tapml-status [role=status]"))
        assert bare.button("Run").is_disabled()
        bare.until(lambda: bare[".tapml-rows .tapml-row:has-text('PASS')"].count() == 3)


class TestViews:
    def test_two_views_of_one_widget_stay_in_step(self, page, judged):
        bare = BarePage(page, feed_of(judged), ["table"], times=2)
        first, second = bare["[role=grid]"].all()
        first.focus()
        page.keyboard.press("Home")
        bare.until(lambda: second.locator("[aria-selected=true]").count() == 1)

    def test_widgets_of_one_session_share_the_selection(self, page, browser, judged):
        table = BarePage(page, feed_of(judged), ["table"])
        other = browser.new_page()
        inspector = BarePage(other, feed_of(judged), ["inspector"])
        table["[role=grid]"].focus()
        page.keyboard.press("End")
        inspector.until(lambda: inspector[".tapml-inspector h3"].text_content() == "lm_head/linear")
        other.close()

    def test_themes(self, page, judged):
        bare = BarePage(page, feed_of(judged), ["graph"], style=DARK)
        shade = (
            "(e) => { const c = e.getContext('2d'); return [...c.getImageData(2, 2, 1, 1).data]; }"
        )
        canvas = bare[".tapml-canvas"]
        bare.until(lambda: canvas.evaluate(shade)[:3] == [17, 17, 17])
        page.evaluate("() => document.body.style.setProperty('--jp-layout-color1', '#fff')")
        bare.until(lambda: canvas.evaluate(shade)[:3] == [255, 255, 255])

    def test_after_its_end_a_view_leaves_nothing(self, page, judged):
        bare = BarePage(page, feed_of(judged))
        page.evaluate("() => window.tapmlEnd.slice(1).forEach((end) => end())")
        assert bare[".tapml"].count() == 0
        assert bare.errors == []

    def test_controls_have_names(self, bench):
        nameless = bench.page.evaluate(
            """() => [...document.querySelectorAll('button, select, input, canvas[tabindex]')]
              .filter((e) => !(e.ariaLabel || e.textContent.trim() || e.closest('label')))
              .map((e) => e.outerHTML)"""
        )
        assert nameless == []


class TestText:
    NAME = "<img src=x onerror=alert(1)>"

    def test_names_are_text_everywhere(self, page):
        torch.manual_seed(0)
        inner = nn.Sequential()
        inner.add_module(self.NAME, nn.Linear(4, 4))
        model = nn.Sequential()
        model.add_module(self.NAME, inner)
        with tapml.debug(
            model.eval(), (torch.randn(2, 4),), target="llvm", name=self.NAME
        ) as session:
            (op,) = session.graph.ops
            assert self.NAME in op.id
            session.override(op.id, lambda x, w, b: x)
            session.run()
            bare = BarePage(page, feed_of(session))
            bare[".tapml-culprits button"].click()
            for tab in ("Tensors", "Code", "Try a fix", "Verdict"):
                page.get_by_role("tab", name=tab).click()
                page.wait_for_timeout(50)
                bare.until(lambda: bare.text(".tapml-panel") not in ("", "…"))
            for mode in ("kind", "metric", "position", "tensor"):
                bare["[aria-label='What the heatmap shows']"].select_option(mode)
                bare.until(lambda: True)
            bare[".tapml-canvas"].focus()
            for key in ("Home", "Enter", "ArrowDown", " "):
                page.keyboard.press(key)
            bare[".tapml-plot-stage"].focus()
            page.keyboard.press("Home")
            bare["[aria-label='Filter operators by text']"].fill("<img")
            bare.until(lambda: self.NAME in bare.text(".tapml-inspector h3"))
            assert bare["img"].count() == 0
            assert bare[".tapml-rows .tapml-row"].count() == 1
            for part in ("status", "culprits", "inspector", "rows", "heat"):
                assert self.NAME in bare.text(f".tapml-{part}"), part
            assert bare.errors == []
