"""The architecture as DESIGN draws it: imports run one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tapml_nb"

ORDER = [
    {"numerics", "tensorfile", "terminal", "interpreter", "owner"},
    {"graph"},
    {"frontends"},
    {"compile"},
    {"targets"},
    {"execute"},
    {"judge"},
    {"report"},
    {"migrate"},
    {"engine"},
    {"jupyter"},
    {"session"},
    {"api"},
    {"carve"},
    {"widgets"},
    {"cli"},
]
"""Rooms from left to right; a module imports only from its own room and from rooms to the left.

``engine`` and ``carve`` call each other at run time (a session writes bundles, a bundle opens
sessions), so those imports are inside functions, where this test does not look.  So does a session
make its ``widgets``.
"""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path):
    """Rooms that a module imports when it is imported itself (not under TYPE_CHECKING)."""
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tapml_nb."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "tapml_nb":
            yield from (alias.name for alias in node.names if alias.name != "cli")  # the magic


MODULES = [p for p in sorted(PACKAGE.rglob("*.py")) if p.name != "__init__.py"]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    rank = {room: i for i, rooms in enumerate(ORDER) for room in rooms}
    for imported in imports(path):
        assert rank[imported] <= rank[room_of(path)], f"{room_of(path)} imports {imported}"


def test_every_room_has_its_place():
    rooms = {room_of(p) for p in MODULES}
    assert rooms == set().union(*ORDER)


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, tapml_nb\n"
        "heavy = {'torch', 'tvm', 'pandas', 'matplotlib', 'IPython'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_names_exist():
    import tapml_nb

    for name in tapml_nb.__all__:
        assert getattr(tapml_nb, name) is not None
    assert set(tapml_nb.__all__) <= set(dir(tapml_nb))
    with pytest.raises(AttributeError, match="no attribute 'debugg'"):
        tapml_nb.debugg  # noqa: B018
