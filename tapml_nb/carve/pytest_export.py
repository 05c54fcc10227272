"""A bundle as a folder of tests that run with plain pytest against any target."""

from __future__ import annotations

import shutil
from pathlib import Path

from tapml_nb.carve.archive import CODING

_BUNDLE = "carved.tapml"

_CONFTEST = '''\
"""Options and fixtures for the carved tests beside this file."""

from pathlib import Path

import pytest

from tapml_nb import Bundle

BUNDLE = Path(__file__).with_name("carved.tapml")


def pytest_addoption(parser):
    parser.addoption("--target", default="llvm", help="what to run the operators on")


def pytest_generate_tests(metafunc):
    if {"op", "step"} <= set(metafunc.fixturenames):
        calls = [(test.op, test.step) for test in Bundle.open(BUNDLE)]
        metafunc.parametrize("op, step", calls, ids=[f"{op}-{step}" for op, step in calls])


@pytest.fixture(scope="session")
def report(request):
    """Every carved operator judged once on the target."""
    return Bundle.open(BUNDLE).replay(request.config.getoption("--target"))
'''

_TEST = """\
{doc}

import pytest

from tapml_nb.terminal import printable


def test_operator(report, op, step):
    result = report.introduced[op, step]
    if result.verdict == "UNSUPPORTED":
        pytest.skip(f"not checked: {{printable(result.message)}}")
    why = printable(f"{{result.verdict}}: {{result.message}}")
    assert result.verdict in ("PASS", "SKIPPED"), why
"""


def export(name: str, path: Path, folder: Path) -> Path:
    """Write a folder with the bundle at ``path``, ``conftest.py`` and one test file.

    Raises:
        ValueError: if the folder cannot be written.
    """
    # A literal, whatever the name is; ASCII, so that no encoding makes it anything else.
    doc = ascii(f"Every operator carved from {name}, on its real inputs")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / _BUNDLE)
        for file, text in (("conftest.py", _CONFTEST), ("test_carved.py", _TEST.format(doc=doc))):
            (folder / file).write_text(CODING + text, encoding="ascii")
    except OSError as error:
        raise ValueError(f"folder: {folder} cannot be written ({error.strerror})") from None
    return folder
