"""Progress while a run is waited for: one line in a terminal, one output in a notebook."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tapml_nb.execute.events import EventStream, OpJudged, RunProgress
from tapml_nb.judge.results import OpResult
from tapml_nb.judge.verdict import Verdict
from tapml_nb.jupyter.notebook import ProgressLine

CODE = """
import sys
sys.path.insert(0, {root!r})
import tapml_nb as tapml
from tests.models import two_layers
session = tapml.debug(*two_layers())
report = session.run()
assert report.outcome == "no culprit among 3 judged operators"
session.close()
"""
ROOT = str(Path(__file__).parents[2])


def test_a_terminal_shows_a_line_that_is_redrawn():
    terminal, child_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", CODE.format(root=ROOT)], stdout=subprocess.DEVNULL, stderr=child_end
    )
    os.close(child_end)
    text = b""
    while True:
        try:
            chunk = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        text += chunk
    assert process.wait(60) == 0
    shown = text.decode()
    assert "compiling" in shown or "judging operators" in shown
    assert shown.count("\r\x1b[K") >= 2
    assert "done" in shown.splitlines()[-1]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_time_left_is_shown_while_it_is_known(monkeypatch):
    terminal, events = Terminal(), EventStream()
    monkeypatch.setattr(sys, "stderr", terminal)
    with ProgressLine(events, lambda: "no culprit") as line:
        events.emit(RunProgress("introduced", 1, 9))
        line._show("")
        assert terminal.getvalue().endswith(" s")
        events.emit(RunProgress("introduced", 2, 9, 1000.0))
        events.emit(RunProgress("compile", 7, 8))
        line._show("")
        assert re.search(r"compiling 7/8, [\d.]+ s, \d+ s left$", terminal.getvalue())
    assert re.search(r"done, no culprit, [\d.]+ s\n$", terminal.getvalue())


def test_an_operator_counts_once_with_the_worst_of_its_verdicts(monkeypatch):
    terminal, events = Terminal(), EventStream()
    monkeypatch.setattr(sys, "stderr", terminal)

    def judged(op, step, verdict):
        events.emit(OpJudged(op, step, OpResult(op, step, verdict)))

    with ProgressLine(events, lambda: "") as line:
        judged("a", 0, Verdict.PASS)
        judged("b", 0, Verdict.PASS)
        judged("a", 1, Verdict.FAIL)
        judged("b", 1, Verdict.PASS)
        line._drawn = 0.0
        line.draw()
        assert "starting, 1 culprit, " in terminal.getvalue()
        judged("a", 2, Verdict.PASS)
        judged("c", 0, Verdict.COMPILE_ERROR)
        line._drawn = 0.0
        line.draw()
        assert "starting, 1 culprit, 1 missing, " in terminal.getvalue()


def test_a_pipe_shows_nothing():
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(root=ROOT)], capture_output=True, text=True, check=True
    )
    assert "judging" not in done.stderr + done.stdout


def test_a_notebook_cell_keeps_one_line_of_text():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CODE.format(root=ROOT))])
    NotebookClient(notebook, timeout=120).execute()
    (output,) = notebook.cells[0].outputs
    assert output["output_type"] == "display_data"
    # in the report's words
    words = "no culprit among 3 judged operators; outputs not known: nothing is on the target"
    assert output["data"]["text/plain"].startswith(f"done, {words}, ")
