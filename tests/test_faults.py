"""The suite of planted faults: that it holds together, and a part of it played."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults import __main__ as command
from benchmarks.faults.suite import PLANTS

ROOT = Path(__file__).parent.parent

FAULTS = [plant for plant in PLANTS if not plant.benign]
CONTROLS = [plant for plant in PLANTS if plant.benign]


def test_there_are_enough():
    assert len(FAULTS) >= 40
    assert len(CONTROLS) >= 20
    assert len({plant.model for plant in PLANTS}) >= 6


def test_names_are_unique():
    assert len({plant.name for plant in PLANTS}) == len(PLANTS)


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.name)
def test_every_fault_names_what_it_is_modelled_on(plant):
    assert re.search(r"[\w.-]+/[\w.-]+#\d+", plant.make.__doc__)


def test_a_part_of_it():
    """Without Llama, whose graph is the largest."""
    small = ("arithmetic", "bert", "channels-bf16", "channels-fp16", "convolutions", "extremes")
    some = [plant for plant in PLANTS if plant.model in (*small, "undefined")]
    scores = command.play(some)
    assert len(scores) > 75
    for score in scores:
        assert score.effective or score.plant.benign
        assert score.seen is not score.plant.benign, f"{score.plant.name}: {score}"
        assert score.first or score.plant.benign
        assert score.diagnosed is not False, f"{score.plant.name}: {score.pattern}"


def test_the_command():
    arguments = [sys.executable, "-m", "benchmarks.faults", "--only", "saturates", "online_softmax"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "1 faults and 1 controls in 2 models" in done.stdout
    assert re.search(r"faults seen +1/1 +1/1 +1/1", done.stdout)


def test_an_unknown_name():
    arguments = [sys.executable, "-m", "benchmarks.faults", "--only", "nonsense"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no plant is called nonsense" in done.stderr
