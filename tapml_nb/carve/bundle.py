"""A bundle of carved tests: open it, look at it, replay it on a target, export it to pytest."""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tapml_nb.carve.archive import CODING, Archive, BundleError, versions
from tapml_nb.carve.manifest import unit_member
from tapml_nb.extras import may_need_extras
from tapml_nb.graph import Selector, select
from tapml_nb.terminal import printable

if TYPE_CHECKING:
    import pandas as pd

    from tapml_nb.engine.engine import Engine
    from tapml_nb.report import Report
    from tapml_nb.targets.spec import Target

__all__ = ["Bundle", "BundleError", "CarvedTest"]

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


@dataclass(frozen=True)
class CarvedTest:
    """One operator in one step with its real inputs and what the source made of them.

    Attributes:
        op: the operator's id.
        kind: its ATen overload packet.
        step: the step it was carved from.
        inputs: its tensor inputs, in order.
        outputs: the source's outputs, in order.
        exact: the float64 results, or None for outputs that have none (integers, booleans).
        verdict: what the session that carved it said; None if it had not judged it.
        message: why.

    Example:
        >>> test = list(bundle)[-1]
        >>> test.op, test.verdict, test.outputs[0].shape, test.exact[0].dtype
        ('pool/avg_pool2d', 'FAIL', (1, 1, 4, 4), dtype('float64'))
    """

    op: str
    kind: str
    step: int
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    exact: tuple[np.ndarray | None, ...]
    verdict: str | None
    message: str


class Bundle:
    """Carved tests in one file.  Opening checks every byte of it.

    Opening and looking runs nothing of a bundle.  :meth:`replay`, :meth:`repro`, and the tests
    that :meth:`to_pytest` writes, compile the operators that it holds and run them here, and these
    may call whatever native code they name: replay only bundles of people whose programs you
    would run.

    Example:
        >>> bundle = tapml.Bundle.open(folder / "net.tapml")
        >>> bundle.name, len(bundle), bundle.close()
        ('Net', 3, None)
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self.path = archive.path
        self.name: str = archive.manifest["name"]
        self._tests: list[dict[str, Any]] = archive.manifest["tests"]

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Open a bundle.

        Raises:
            BundleError: if it is missing, no bundle, damaged (the member is named), malformed,
                or of another version.  Whatever is found to be wrong with it later is one, too.
        """
        return cls(Archive(Path(path)))

    def close(self) -> None:
        """Close the file."""
        self._archive.close()

    def __len__(self) -> int:
        return len(self._tests)

    def __iter__(self) -> Iterator[CarvedTest]:
        for test in self._tests:
            yield CarvedTest(
                test["op"],
                test["kind"],
                test["step"],
                inputs=tuple(self._archive.tensor(i["tensor"]) for i in test["inputs"]),
                outputs=tuple(self._archive.tensor(o["tensor"]) for o in test["outputs"]),
                exact=tuple(self._archive.exact(o) for o in test["outputs"]),
                verdict=test["verdict"],
                message=test["message"],
            )

    def __repr__(self) -> str:
        tests = f"{len(self)} carved test{'s' * (len(self) != 1)}"
        return printable(f"<Bundle of {self.name}: {tests}, {self.path}>")

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of tapml_nb and TVM that wrote it; empty if it does not say."""
        recorded: Mapping[str, str] = self._archive.manifest.get("versions", {})
        return recorded

    @may_need_extras()
    def frame(self) -> pd.DataFrame:
        """One row per carved test: ``op, kind, scope, step, inputs, outputs, verdict, file, line,
        message``, as they were when it was carved.

        Example:
            >>> bundle.frame()["inputs"][2]
            'float32[1, 1, 8, 8]'
        """
        import pandas as pd

        call = ("op", "kind", "scope", "step")

        def specs(entries: list[dict[str, Any]]) -> str:
            arrays = [self._archive.tensor(entry["tensor"]) for entry in entries]
            return ", ".join(f"{a.dtype.name}{list(a.shape)}" for a in arrays)

        rows = [
            {
                **{name: test[name] for name in call},
                "inputs": specs(test["inputs"]),
                "outputs": specs(test["outputs"]),
                "verdict": test["verdict"],
                "file": (test["source"] or {}).get("file"),
                "line": (test["source"] or {}).get("line"),
                "message": test["message"],
            }
            for test in self._tests
        ]
        columns = [*call, "inputs", "outputs", "verdict", "file", "line", "message"]
        return pd.DataFrame(rows, columns=columns).astype({"line": "Int64"})

    def replay(self, target: str | Target = "llvm", *, tolerance: float | None = None) -> Report:
        """Judge every carved test again, on any target; needs neither the model nor PyTorch.

        This runs the bundle's code: what its operators were compiled from, native calls included,
        by the target, with the rights of whoever runs that.

        Args:
            target: as for :func:`tapml_nb.debug`.
            tolerance: as for :func:`tapml_nb.debug`.

        Raises:
            ValueError: if the target is unknown or cannot be used here.
            BundleError: if something in the bundle is not what it should be.

        Example:
            >>> bundle.replay(tapml.Target("llvm", guard=True)).outcome
            '1 culprit'
        """
        self._notice_versions()
        with _torch_left_out():
            with self._engine(target, tolerance) as engine:
                return _judged(engine, None)

    def to_pytest(self, folder: str | Path) -> Path:
        """Write a folder that tests this bundle on any target with ``pytest --target …``.

        Raises:
            ValueError: if the folder cannot be written.

        Example:
            >>> sorted(path.name for path in bundle.to_pytest(folder / "tests").glob("*.py"))
            ['conftest.py', 'test_carved.py']
        """
        folder = Path(folder)
        # A literal, whatever the name is; ASCII, so that no encoding makes it anything else.
        doc = ascii(f"Every operator carved from {self.name}, on its real inputs")
        files = {"conftest.py": _CONFTEST, "test_carved.py": _TEST.format(doc=doc)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.path, folder / "carved.tapml")
            for name, text in files.items():
                (folder / name).write_text(CODING + text, encoding="ascii")
        except OSError as error:
            raise ValueError(f"folder: {folder} cannot be written ({error.strerror})") from None
        return folder

    def repro(
        self, op: str, path: str | Path, *, step: int = 0, target: str | Target = "llvm"
    ) -> Path:
        """Judge one carved operator on a target and write it as a script, if it fails.

        This runs the bundle's code, as :meth:`replay` does, and so does the script.

        Args:
            op: the operator's id.
            path: the file to write, by custom ``*.py``.
            step: the step it was carved from.
            target: as for :func:`tapml_nb.debug`.

        Raises:
            SelectorError, ValueError: as for :meth:`tapml_nb.session.Session.repro`.
            BundleError: if something in the bundle is not what it should be.

        Example:
            >>> bundle.repro("pool/avg_pool2d", folder / "carved.py")
            PosixPath('...carved.py')
        """
        self._notice_versions()
        with _torch_left_out():
            from tapml_nb.carve.repro import reproduce

            with self._engine(target) as engine:
                _judged(engine, op)
                return reproduce(engine, op, Path(path), step)

    def unit(self, key: str) -> str:
        """The JSON text of a compilable unit (TVM's ``load_json`` reads it)."""
        return self._archive.text(unit_member(key))

    def _engine(self, target: str | Target, tolerance: float | None = None) -> Engine:
        """An engine on the carved operators."""
        from tapml_nb.carve.program import CarvedProgram
        from tapml_nb.engine.engine import open_engine

        return open_engine(CarvedProgram(self._archive), target, tolerance=tolerance)

    def _notice_versions(self) -> None:
        """Another TVM may not read what is in the bundle, or read it as something else."""
        then, now = self.versions.get("apache-tvm"), versions()["apache-tvm"]
        if then and then != now:
            warnings.warn(
                printable(f"{self.path} was carved with TVM {then}, and this is {now}"),
                stacklevel=3,
            )


def _judged(engine: Engine, ops: Selector | None) -> Report:
    from tapml_nb.engine.verbs import runs

    engine.run(runs.judge, select(engine.graph, ops))
    return engine.report()


@contextmanager
def _torch_left_out() -> Iterator[None]:
    """Keep TVM's import from pulling PyTorch in, which replaying has no use for.

    Only where neither was imported yet; PyTorch can be imported as ever afterwards.
    """
    if "torch" in sys.modules or "tvm_ffi" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]
