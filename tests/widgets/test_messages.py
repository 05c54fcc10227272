"""What a page may ask for is one thing at both ends, and checked before use."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from tapml_nb.widgets.commands import Commands
from tapml_nb.widgets.messages import COMMANDS, checked

SOURCES = Path(__file__).parents[2] / "extensions" / "widgets"

TENSOR = {
    "op": 0,
    "step": 0,
    "which": "source",
    "output": 0,
    "axes": [0, 1],
    "fixed": {"2": 5},
    "window": None,
}


def test_the_pages_types_are_those_of_python():
    spec = importlib.util.spec_from_file_location("page_messages", SOURCES / "messages.py")
    assert spec
    assert spec.loader
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    written = (SOURCES / "src" / "messages.ts").read_text()
    assert generator.generate() == written, "it is old: npm run messages in extensions/widgets"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_takes_and_answers_what_the_table_says(name):
    hints = get_type_hints(getattr(Commands, f"_{name}"))
    (arguments,) = (hint for key, hint in hints.items() if key != "return")
    answer, _ = get_args(hints["return"])
    assert arguments is COMMANDS[name].arguments
    assert answer is (COMMANDS[name].answer or type(None))


def test_arguments_that_fit():
    assert checked("tensor", TENSOR) is TENSOR
    assert checked("run", {}) == {}
    assert checked("run", {"ops": [1, 2], "other": object()})
    assert checked("remember", {"key": "a", "value": None})


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("inspect", {"op": 0}, "'step' is missing"),
        ("inspect", {"op": True, "step": 0}, "op: True; give a whole number"),
        ("inspect", {"op": 1.0, "step": 0}, "op: 1.0; give a whole number"),
        ("offload", {"ops": [0, "1"]}, r"ops: \[0, '1'\]; give list\[int\]"),
        ("run", {"ops": None}, "ops: None"),
        ("override", {"op": 0, "text": 3}, "text: 3; give text"),
        ("remember", {"key": 1, "value": 1}, "key: 1; give text"),
        ("tensor", {**TENSOR, "which": "host"}, "which: 'host'"),
        ("tensor", {**TENSOR, "axes": [0]}, r"axes: \[0\]"),
        ("tensor", {**TENSOR, "fixed": {"2": None}}, "fixed: "),
        ("tensor", {**TENSOR, "fixed": [2]}, "fixed: "),
        ("tensor", {**TENSOR, "window": [0, 1, 2, "3"]}, "window: "),
    ],
)
def test_arguments_that_do_not_fit(name, args, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        checked(name, args)
