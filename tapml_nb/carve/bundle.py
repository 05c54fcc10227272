"""A bundle of carved tests: open it, look at it, replay it on a target, export it to pytest."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tapml_nb.carve.archive import Archive, BundleError, unit_member

if TYPE_CHECKING:
    import pandas as pd

    from tapml_nb.report import Report
    from tapml_nb.targets.spec import Target

__all__ = ["Bundle", "BundleError", "CarvedTest"]


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
    """Carved tests in one file.  Opening checks every byte of it."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self.path = archive.path
        self.name: str = archive.manifest["name"]
        self._tests: list[dict[str, Any]] = archive.manifest["tests"]

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Open a bundle.

        Raises:
            BundleError: if it is missing, no bundle, damaged (the member is named), or of
                another version.
        """
        return cls(Archive(Path(path)))

    def close(self) -> None:
        """Close the file."""
        self._archive.close()

    def __len__(self) -> int:
        return len(self._tests)

    def __iter__(self) -> Iterator[CarvedTest]:
        for test in self._tests:
            outputs = tuple(self._archive.tensor(o["tensor"]) for o in test["outputs"])
            exact = tuple(
                None
                if entry["delta"] is None
                else output.astype(np.float64) + self._archive.tensor(entry["delta"])
                for output, entry in zip(outputs, test["outputs"], strict=True)
            )
            yield CarvedTest(
                op=test["op"],
                kind=test["kind"],
                step=test["step"],
                inputs=tuple(self._archive.tensor(i["tensor"]) for i in test["inputs"]),
                outputs=outputs,
                exact=exact,
                verdict=test["verdict"],
                message=test["message"],
            )

    def __repr__(self) -> str:
        return f"<Bundle of {self.name}: {len(self)} carved tests, {self.path}>"

    def frame(self) -> pd.DataFrame:
        """One row per carved test: ``op, kind, scope, step, inputs, outputs, verdict, file, line,
        message``, as they were when it was carved."""
        import pandas as pd

        def specs(entries: list[dict[str, Any]]) -> str:
            arrays = [self._archive.tensor(entry["tensor"]) for entry in entries]
            return ", ".join(f"{a.dtype.name}{list(a.shape)}" for a in arrays)

        rows = [
            {
                **{name: test[name] for name in ("op", "kind", "scope", "step")},
                "inputs": specs(test["inputs"]),
                "outputs": specs(test["outputs"]),
                "verdict": test["verdict"],
                "file": (test["source"] or {}).get("file"),
                "line": (test["source"] or {}).get("line"),
                "message": test["message"],
            }
            for test in self._tests
        ]
        columns = [
            "op",
            "kind",
            "scope",
            "step",
            "inputs",
            "outputs",
            "verdict",
            "file",
            "line",
            "message",
        ]
        return pd.DataFrame(rows, columns=columns).astype({"line": "Int64"})

    def replay(self, target: str | Target = "llvm", *, tolerance: float | None = None) -> Report:
        """Judge every carved test again, on any target; needs neither the model nor PyTorch.

        Args:
            target: as for :func:`tapml_nb.debug`.
            tolerance: as for :func:`tapml_nb.debug`.

        Raises:
            ValueError: if the target is unknown or cannot be used here.
        """
        with _torch_left_out():
            from tapml_nb.api import open_session
            from tapml_nb.carve.program import CarvedProgram

            program = CarvedProgram(self._archive)
            with open_session(program, target, tolerance=tolerance) as session:
                return session.run()

    def to_pytest(self, folder: str | Path) -> Path:
        """Write a folder that tests this bundle on any target with ``pytest --target …``.

        Raises:
            ValueError: if the folder cannot be written.
        """
        from tapml_nb.carve.pytest_export import export

        return export(self, Path(folder))

    def repro(
        self, op: str, path: str | Path, *, step: int = 0, target: str | Target = "llvm"
    ) -> Path:
        """Judge one carved operator on a target and write it as a script, if it fails.

        Args:
            op: the operator's id.
            path: the file to write, by custom ``*.py``.
            step: the step it was carved from.
            target: as for :func:`tapml_nb.debug`.

        Raises:
            SelectorError, ValueError: as for :meth:`tapml_nb.session.Session.repro`.
        """
        with _torch_left_out():
            from tapml_nb.api import open_session
            from tapml_nb.carve.program import CarvedProgram

            with open_session(CarvedProgram(self._archive), target) as session:
                session.run(op)
                return session.repro(op, path, step)

    def unit(self, key: str) -> str:
        """The JSON text of a compilable unit (TVM's ``load_json`` reads it)."""
        return self._archive.text(unit_member(key))


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
