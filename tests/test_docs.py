"""The documents: every file, folder and module of the repository that they name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAPERS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
DOCUMENTS = [*(ROOT / name for name in PAPERS), *sorted((ROOT / "docs").rglob("*.md"))]

ELSEWHERE = ("build/", "dist/", "tapml-nb/PORT/KEY/", "compare_lib.py")
"""What begins so is made by commands, or is another project's, or a part of an address."""

_NAMED = re.compile(r"`([\w./-]+(?:/|\.(?:py|ts|mjs|sh|md|ipynb|toml|yml|html)))`")
_LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
_MODULE = re.compile(r"python3? -m ((?:benchmarks|tapml_nb|tests)[\w.]*)")
_SCRIPT = re.compile(r"python3? ([\w./-]+\.py)")


def missing(text: str, folder: Path) -> list[str]:
    """Paths and modules that a document in a folder names and that are not there.

    A path may begin at the repository's root or in the package, the room's name first; a name
    alone is that of any file.
    """
    files = {path.name for room in ("tapml_nb", "tests", "benchmarks") for path in _python(room)}
    named = [name for name in _NAMED.findall(text) if not name.startswith(ELSEWHERE)]
    found = [
        name
        for name in [*named, *_SCRIPT.findall(text)]
        if name not in files
        and not any((place / name).exists() for place in (ROOT, ROOT / "tapml_nb"))
    ]
    found += [link for link in _LINK.findall(text) if not (folder / link).exists()]
    for module in _MODULE.findall(text):
        place = ROOT.joinpath(*module.split("."))
        if not (place.with_suffix(".py").exists() or (place / "__main__.py").exists()):
            found.append(module)
    return found


def _python(room: str) -> list[Path]:
    return list((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_is_there(document):
    assert missing(document.read_text(), document.parent) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("in `compile/nothing.py`", "compile/nothing.py"),
        ("in `nothing.py`", "nothing.py"),
        ("the room `nothing/`", "nothing/"),
        ("see [this](nothing.md)", "nothing.md"),
        ("    python -m benchmarks.nothing --seed 0", "benchmarks.nothing"),
        ("    python benchmarks/nothing.py", "benchmarks/nothing.py"),
    ],
)
def test_what_is_not_there_is_seen(text, name):
    assert missing(text, ROOT / "docs") == [name]
