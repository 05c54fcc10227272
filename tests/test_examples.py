"""The examples in docstrings: every public name has one, and all of them are true.

They share one namespace: a model, its input, a session with a report, a bundle and a folder.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tapml_nb as tapml
from tests import models

PACKAGE = Path(tapml.__file__).parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Net(nn.Module):
    """Two operators that pass, and one that fails: TVM ignores the divisor."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.act = nn.GELU()
        self.pool = nn.AvgPool2d(2, divisor_override=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.act(self.fc(x)))


class Branching(nn.Module):
    """It cannot be exported."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def examples() -> Iterator[Any]:
    """Every docstring with an example: its module, its name there, its line, the text."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        yield from _inside(ast.parse(path.read_text()), module, "")


def _inside(node: ast.AST, module: str, name: str) -> Iterator[Any]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
        text = ast.get_docstring(node) or ""
        if ">>>" in text:
            line = node.body[0].lineno
            yield pytest.param(module, name, line, text, id=f"{module}:{name}")
    for child in ast.iter_child_nodes(node):
        yield from _inside(child, module, f"{name}.{getattr(child, 'name', '')}".strip("."))


@pytest.fixture(scope="module")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    torch.manual_seed(0)
    folder, model, x = tmp_path_factory.mktemp("examples"), Net().eval(), torch.randn(1, 1, 8, 8)
    with tapml.debug(model, (x,)) as session:
        report = session.run()
        bundle = session.carve(folder / "net.tapml")
        names = {"model": model, "x": x, "session": session, "report": report, "bundle": bundle}
        modules = {"tapml": tapml, "torch": torch, "np": np}
        yield names | modules | {"folder": folder, "branching": Branching().eval()}
        bundle.close()


@pytest.mark.parametrize(("module", "name", "line", "text"), list(examples()))
def test_an_example_is_true(module, name, line, text, namespace):
    namespace["session"].restore("*")
    known = {**vars(importlib.import_module(module)), **namespace}
    if "llama" in text:
        known["llama"], _ = models.llama(layers=1)
    test = doctest.DocTestParser().get_doctest(text, known, f"{module}.{name}", module, line)
    differences: list[str] = []
    result = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=differences.append)
    assert result.attempted
    assert not result.failed, "".join(differences)


@pytest.mark.parametrize("name", tapml.__all__)
def test_a_public_name_has_an_example(name):
    assert ">>>" in (inspect.getdoc(getattr(tapml, name)) or "")


CLASSES = [name for name in tapml.__all__ if inspect.isclass(getattr(tapml, name))]


@pytest.mark.parametrize("name", CLASSES)
def test_a_method_whose_arguments_are_described_has_an_example(name):
    methods = inspect.getmembers(getattr(tapml, name), inspect.isroutine)
    described = {method: inspect.getdoc(f) or "" for method, f in methods if method[0] != "_"}
    without = [m for m, text in described.items() if "Args:" in text and ">>>" not in text]
    assert without == []
