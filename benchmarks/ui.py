"""How fast the workbench is, in a real JupyterLab in headless Chromium, without a GPU.

    python benchmarks/ui.py [--operators 500 5000 20000] [--seconds 10] [--toggles 100]

Prints: from the display of a workbench to its first paint, in the cell and in a tab beside the
notebook; to all scopes opened; frames while panning; from a result's event in Python to its pixels,
at 1,000 results a second; from a keystroke that moves an operator to the callback in Python; the
size of what a page loads.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Browser, sync_playwright  # noqa: E402

from tests.browser.conftest import ARGUMENTS, CHROMIUM, VIEWPORT  # noqa: E402
from tests.browser.jupyter import Lab, Server, serve, write_notebook  # noqa: E402

STATIC = ROOT / "tapml_nb" / "widgets" / "static"

PATH = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"

DRAWING = """
import time
from benchmarks.large_graph import drawing
session = drawing({operators})
widget = session.widget
"""

LLAMA = """
import threading, time
import tapml_nb as tapml
from tapml_nb.execute.events import OpJudged
from tests.models import llama
session = tapml.debug(*llama(), target="llvm")
session.run()
session.widget
"""

NOW = "performance.timeOrigin + performance.now()"

# A message posted in a frame arrives when the frame has been drawn.
AFTER_PAINT = """
  const channel = new MessageChannel();
  const afterPaint = (call) => {
    channel.port1.onmessage = call;
    channel.port2.postMessage(0);
  };
"""

# Where a workbench is.
CELL, TAB = ".jp-Notebook", ".tapml-tab"

WATCH_FIRST_PAINT = f"""(place) => {{{AFTER_PAINT}
  const watched = window.watched = {{}};  // who watched before watches no more
  addEventListener("tapml-drawn", (event) => {{
    if (watched.first || !event.target.closest?.(place)) return;
    afterPaint(() => (watched.first ??= {NOW}));
  }}, {{ capture: true }});
  new MutationObserver(() => {{
    if (document.querySelector(`${{place}} .tapml-whole`)) watched.whole ??= {NOW};
  }}).observe(document.body, {{ subtree: true, attributes: true, attributeFilter: ["class"] }});
}}"""

OPEN_BESIDE = f"""() => {{
  document.querySelector(".tapml-beside").click();
  return {NOW};
}}"""

OPEN_ALL = f"""async (place) => {{{AFTER_PAINT}
  const canvas = document.querySelector(`${{place}} .tapml-canvas`);
  const begin = {NOW};
  document.querySelector(`${{place}} button[aria-label='Open every scope']`).click();
  await new Promise((done) => canvas.addEventListener("tapml-drawn", done, {{ once: true }}));
  await new Promise((done) => afterPaint(done));
  return {NOW} - begin;
}}"""

# The time that one frame keeps the page's thread, at four zooms, while panning around.
PAN = """async (place) => {
  const canvas = document.querySelector(`${place} .tapml-canvas`);
  const key = (key, shiftKey) =>
    canvas.dispatchEvent(new KeyboardEvent("keydown", { key, shiftKey, bubbles: true }));
  const frames = [];
  key("f");
  for (let zoom = 0; zoom < 4; zoom++) {
    for (let k = 0; k < 60; k++) {
      const way = ["ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"][Math.floor(k / 15)];
      await new Promise((done) => requestAnimationFrame(done));
      const drawn = new Promise((done) => addEventListener("tapml-drawn", done, { once: true }));
      const before = performance.now();
      key(way, true);
      await drawn;
      await new Promise((done) => setTimeout(done));
      frames.push(performance.now() - before);
    }
    for (let k = 0; k < 6; k++) key("+");
  }
  return frames;
}"""

WATCH_RESULTS = f"""() => {{
  window.painted = [];
  addEventListener("tapml-painted", (event) => {{
    const channel = new MessageChannel();
    const count = event.detail.received;
    channel.port1.onmessage = () => window.painted.push([count, {NOW}]);
    channel.port2.postMessage(0);
  }});
}}"""

EMIT = """
times = []
def emit():
    results = [session.report.introduced[op.id, 0] for op in session.graph.ops]
    begin = time.perf_counter()
    for k in range({count}):
        time.sleep(max(0, begin + k / 1000 - time.perf_counter()))
        result = results[k % len(results)]
        times.append(time.time())
        session.engine.events.emit(OpJudged(result.op, result.step, result))
threading.Thread(target=emit).start()
"""

TOGGLE = f"""async (count) => {{
  const grid = document.querySelector("[role=grid]");
  const press = (key) => grid.dispatchEvent(new KeyboardEvent("keydown", {{ key, bubbles: true }}));
  press("Home");
  const times = [];
  for (let k = 0; k < count; k++) {{
    await new Promise((done) => setTimeout(done, 60 + Math.random() * 60));
    times.push({NOW});
    press(" ");
  }}
  return times;
}}"""


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def open_lab(browser: Browser, server: Server, cells: list[str]) -> Lab:
    """A new page with a notebook of these cells."""
    lab = Lab(browser.new_context(viewport=VIEWPORT).new_page(), server)
    write_notebook(server.root / "bench.ipynb", cells)
    lab.open("bench.ipynb")
    return lab


def paint(browser: Browser, server: Server, operators: int) -> list[dict[str, Any]]:
    """First paint, everything open, and panning, for one size of graph: in the cell, and in a tab
    that is opened beside it then."""
    cells = [PATH + DRAWING.format(operators=operators), "began = time.time(); widget"]
    lab = open_lab(browser, server, cells)
    assert lab.run_cell(0, timeout=120)
    count = int(lab.execute("print(len(session.graph))"))
    measured = []
    for place in (CELL, TAB):
        lab.page.evaluate(WATCH_FIRST_PAINT, place)
        if place == CELL:
            assert lab.run_cell(1)
            began = 1e3 * float(lab.execute("print(began)"))
        else:
            began = lab.page.evaluate(OPEN_BESIDE)
        lab.page.wait_for_function("() => window.watched.whole", timeout=60_000)
        first, whole = lab.page.evaluate("() => [window.watched.first, window.watched.whole]")
        lab.page.wait_for_timeout(1000)
        opened = lab.page.evaluate(OPEN_ALL, place)
        lab.page.wait_for_timeout(500)
        frames = lab.page.evaluate(PAN, place)
        times = {"first": first - began, "whole": whole - began, "opened": opened}
        measured.append({"operators": count, "frames": frames, **times})
    lab.page.context.close()
    server.reset()
    return measured


def live(browser: Browser, server: Server, seconds: float, toggles: int) -> dict[str, Any]:
    """Latencies between Python and the page, in milliseconds, both ways."""
    lab = open_lab(browser, server, [PATH + LLAMA])
    assert lab.run_cell(0, timeout=120)
    lab.page.locator(".tapml-live").wait_for()
    lab.page.wait_for_timeout(2000)
    lab.page.evaluate(WATCH_RESULTS)
    received = int(lab.execute("print(len(session.graph))"))
    count = int(1000 * seconds)
    lab.execute(EMIT.format(count=count))
    lab.page.wait_for_timeout(1000 * seconds + 2000)
    painted = lab.page.evaluate("() => window.painted")
    times = json.loads(lab.execute("import json; print(json.dumps(times))"))
    latencies = []
    frames = iter(painted)
    total, at = next(frames)
    for k, time in enumerate(times):
        while total < received + k + 1:
            total, at = next(frames, (float("inf"), float("nan")))
        latencies.append(at - 1e3 * time)
    lost = received + count - painted[-1][0]

    lab.execute(
        "moved = []\nsession.on('PlacementChanged', lambda event: moved.append(time.time()))"
    )
    pressed = lab.page.evaluate(TOGGLE, toggles)
    lab.page.wait_for_timeout(1000)
    moved = json.loads(lab.execute("print(json.dumps(moved))"))
    assert len(moved) == len(pressed), (len(moved), len(pressed))
    there = [1e3 * m - p for m, p in zip(moved, pressed, strict=True)]
    lab.page.context.close()
    server.reset()
    return {"results": count, "lost": lost, "latencies": latencies, "toggles": there}


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operators", type=int, nargs="+", default=[500, 5_000, 20_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--toggles", type=int, default=100)
    options = parser.parse_args()
    total = 0
    for path in sorted(STATIC.iterdir()):
        data = path.read_bytes()
        total += len(data)
        print(
            f"{path.name}: {len(data) / 1e3:.1f} kB, {len(gzip.compress(data)) / 1e3:.1f} kB gzip"
        )
    print(f"all: {total / 1e3:.1f} kB\n")
    with (
        tempfile.TemporaryDirectory(prefix="tapml-ui-") as folder,
        sync_playwright() as playwright,
        serve(Path(folder)) as server,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        print(
            "| operators | first paint | all parts | all opened "
            "| frame p50 | frame p95 | slowest frame |"
        )
        print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for operators in options.operators:
            both = [paint(browser, server, operators) for _ in range(options.repeats)]
            for where, runs in zip(("cell", "tab"), zip(*both, strict=True), strict=True):
                first = statistics.median(run["first"] for run in runs)
                whole = statistics.median(run["whole"] for run in runs)
                opened = statistics.median(run["opened"] for run in runs)
                frames = [frame for run in runs for frame in run["frames"]]
                middle, high = percentile(frames, 0.5), percentile(frames, 0.95)
                print(
                    f"| {runs[0]['operators']:,}, {where} | {first:.0f} ms | {whole:.0f} ms "
                    f"| {opened:.0f} ms | {middle:.0f} ms | {high:.0f} ms | {max(frames):.0f} ms |",
                    flush=True,
                )
        result = live(browser, server, options.seconds, options.toggles)
        late, there = result["latencies"], result["toggles"]
        print(
            f"\n{result['results']:,} results at 1,000 a second, event to pixel: "
            f"p50 {percentile(late, 0.5):.0f} ms, p95 {percentile(late, 0.95):.0f} ms, "
            f"{result['lost']} lost"
        )
        print(
            f"{len(there)} toggles, keystroke to Python's callback: "
            f"p50 {percentile(there, 0.5):.0f} ms, p95 {percentile(there, 0.95):.0f} ms"
        )
        browser.close()


if __name__ == "__main__":
    main()
