"""The architecture as `docs/architecture.md` draws it: imports run one way, at every depth.

Every import counts, wherever it stands: at the top of a file, inside a function, and where only
types are checked, for a circle of types is a circle of thoughts.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tapml_nb"

ORDER = [
    {"array_api"},
    {"measured"},
    {"numerics", "tensorfile", "terminal", "interpreter", "owner", "budget", "extras"},
    {"graph"},
    {"frontends"},
    {"compile"},
    {"targets"},
    {"execute"},
    {"judge"},
    {"report"},
    {"migrate"},
    {"jupyter"},
    {"engine"},
    {"carve"},
    {"widgets"},
    {"session"},
    {"api"},
    {"cli"},
    {"__init__"},
]
"""Rooms from left to right; a module imports only from its own room and from rooms to the left."""

INSIDE = {
    "targets": ["spec", "wire", "devices", "server", "client"],
    "engine": [
        "jobs",
        "ledger",
        "pool",
        "cached",
        "forecast",
        "turns",
        "engine",
        "foresight",
        "verbs",
    ],
}
"""Rooms within a room, in the same way."""

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""Imports that are allowed to run the other way, by importer and imported, each with its reason."""


def modules(package: Path) -> dict[str, Path]:
    """Every module of a package by its dotted name below it; the package itself is ``__init__``."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) > 1:
            parts = parts[:-1]
        found[".".join(parts)] = path
    return found


def imports(package: Path, path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The modules of the package that a file imports, wherever in it that stands."""
    prefix = f"{package.name}."
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            # ``from a.b import c`` is the module a.b.c where there is one
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if not name.startswith(prefix):
                continue
            inner = name.removeprefix(prefix)
            while inner and inner not in known:
                inner = inner.rpartition(".")[0]
            if inner:
                yield inner


def arrows(package: Path) -> dict[str, set[str]]:
    """Which module imports which."""
    known = modules(package)
    return {
        name: {
            other
            for other in imports(package, path, known)
            if other != name and (name, other) not in EXCEPTIONS
        }
        for name, path in known.items()
    }


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle; empty if there are none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def room_of(module: str) -> str:
    return module.split(".")[0]


ARROWS = arrows(PACKAGE)


@pytest.mark.parametrize("module", ARROWS)
def test_imports_run_one_way(module):
    rank = {room: i for i, rooms in enumerate(ORDER) for room in rooms}
    for imported in ARROWS[module]:
        assert rank[room_of(imported)] <= rank[room_of(module)], f"{module} imports {imported}"


@pytest.mark.parametrize("room", INSIDE)
def test_imports_run_one_way_inside_a_room(room):
    rank = {inner: i for i, inner in enumerate(INSIDE[room])}
    inside = [module for module in ARROWS if module.startswith(f"{room}.")]
    assert {module.split(".")[1] for module in inside} == set(rank)
    for module in inside:
        for imported in ARROWS[module]:
            if imported.startswith(f"{room}."):
                here, there = module.split(".")[1], imported.split(".")[1]
                assert rank[there] <= rank[here], f"{module} imports {imported}"


def test_no_files_import_each_other_in_a_circle():
    assert circle(ARROWS) == []


@pytest.mark.parametrize(
    "line",
    ["from planted.b import f", "def g():\n    from planted import b", "import planted.b"],
    ids=["at the top", "inside a function", "as a module"],
)
def test_a_planted_circle_is_seen(tmp_path, line):
    package = tmp_path / "planted"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text(f"{line}\n")
    (package / "b.py").write_text("def f():\n    import planted.a\n")
    assert set(circle(arrows(package))) == {"a", "b"}


def test_every_room_has_its_place():
    assert {room_of(module) for module in ARROWS} == set().union(*ORDER)


def test_every_exception_is_needed():
    known = modules(PACKAGE)
    for (importer, imported), reason in EXCEPTIONS.items():
        assert reason
        assert imported in set(imports(PACKAGE, known[importer], known))


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
