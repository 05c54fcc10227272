"""The workbench by keyboard and by ear: axe-core's rules, and a whole first bug without a mouse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tapml_nb as tapml
from tapml_nb.widgets.feed import feed_of
from tests.browser.bare import DARK, LIGHT, BarePage
from tests.models import two_layers

AXE = Path(__file__).parents[2] / "extensions/widgets/node_modules/axe-core/axe.min.js"


def twice(x):
    return 2 * x / (1 + np.exp(-x))


@pytest.fixture
def session():
    """A model with a broken activation, judged, and all of it on the target."""
    with tapml.debug(*two_layers(), target="llvm", name="Net") as session:
        session.override("act", twice)
        session.run()
        session.offload("*")
        yield session


def violations(bare):
    """The serious and critical rules that the workbench violates, with where."""
    found = bare.page.evaluate(
        """async () => (await axe.run(".tapml", { resultTypes: ["violations"] })).violations
          .filter((v) => ["serious", "critical"].includes(v.impact))
          .map((v) => `${v.id}: ${v.nodes.map((n) => n.html.slice(0, 120)).join(" | ")}`)"""
    )
    return list(found)


@pytest.mark.parametrize("style", [LIGHT, DARK], ids=["light", "dark"])
def test_axe_finds_nothing_serious(page, session, style):
    bare = BarePage(page, feed_of(session), style=style)
    page.add_script_tag(path=AXE)
    bare.until(lambda: "act/silu" in bare.text(".tapml-inspector h3"))
    for tab in ("Verdict", "Tensors", "Code", "Try a fix"):
        page.get_by_role("tab", name=tab).click()
        bare.until(lambda: bare.text(".tapml-panel") not in ("", "…"))
        assert violations(bare) == [], tab
    page.evaluate("() => document.querySelector('.tapml').append(document.createElement('button'))")
    assert [v.split(":")[0] for v in violations(bare)] == ["button-name"], "it can find something"


def test_the_first_bug_without_a_mouse(page, session):
    bare = BarePage(page, feed_of(session))

    def tab_to(selector, key="Tab"):
        for _ in range(80):
            if page.evaluate("(s) => !!document.activeElement?.matches(s)", selector):
                return
            page.keyboard.press(key)
        raise AssertionError(f"{key} does not lead to {selector}")

    outputs = bare[".tapml-outputs[role=status]"]
    hybrid = "button[title^='Run the model once']"
    tab_to(hybrid)
    page.keyboard.press("Enter")
    bare.until(lambda: "✗ outputs differ" in outputs.text_content())
    # to the culprit, and what is wrong with it
    tab_to(".tapml-culprits button")
    page.keyboard.press("Enter")
    bare.until(lambda: "act/silu" in bare.text(".tapml-inspector h3"))
    tab_to("[role=tabpanel]")
    bare.until(lambda: "usual cause" in bare.text("[role=tabpanel] .tapml-diagnosis"))
    # to the source with it
    tab_to(".tapml-inspector-head input[type=checkbox]", "Shift+Tab")
    page.keyboard.press(" ")
    bare.until(lambda: session.placement["act/silu"] == "source")
    bare.until(lambda: "? outputs not known: run hybrid()" in outputs.text_content())
    tab_to(hybrid, "Shift+Tab")
    page.keyboard.press("Enter")
    words = "✓ outputs right with 2 of 3 operators offloaded"
    bare.until(lambda: outputs.text_content() == words)
    assert bare.errors == []
