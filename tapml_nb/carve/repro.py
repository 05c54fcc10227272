"""An operator that fails, as one Python file that needs TVM and NumPy alone.

Who mends TVM has no use for our sessions: the file holds the operator in Relax, its real inputs
and what the source made of them, goes through TVM's own pipeline and virtual machine, and says
where the result differs.

Names and messages are of a model or a bundle that may come from anybody, and must not become code:
the file says first of all how it is encoded, is ASCII throughout, and what is not our own text is
a literal or a comment with everything but visible ASCII escaped.  What TVM prints is used only if
it is one module and nothing else.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tapml_nb.carve.archive import CODING, check_writable
from tapml_nb.compile.unit import UnitTexts
from tapml_nb.engine.engine import Engine
from tapml_nb.engine.verbs import inspection
from tapml_nb.graph import Graph, Op, Selector
from tapml_nb.judge.floor import Reference
from tapml_nb.judge.results import OpResult
from tapml_nb.judge.verdict import FAULTS, bias_floor, deviation, rms_limit

RUNNABLE = ("llvm", "c", "cuda")
"""Kinds of target that TVM's package has a runtime for."""

_INLINE = 1000
"""Elements of all tensors together that are written into the file itself."""

_USE = (
    "It needs tvm and numpy alone. Exit status: 1 if it reproduces, 0 if it does not, 2 if it "
    "could not be run; a kernel that crashes ends it by a signal."
)

_IMPORT = re.compile(r"# (from tvm\.script import \w+ as [A-Z])")

_HOOK = '''\
import os
import sys

# This file may be called as a module is that others import, say select.py.
sys.path[:] = [p for p in sys.path if p != os.path.dirname(os.path.abspath(__file__))]

import tempfile
import traceback
from pathlib import Path


def give_up(*error):
    """An error of any other kind is no reproduction."""
    traceback.print_exception(*error)
    sys.stderr.flush()
    os._exit(2)


sys.excepthook = give_up
'''

_PROGRAM = '''\
def build():
    """The module as TVM deploys it."""
    executable = tvm.compile(MODULE, TARGET)
    if TARGET.kind.name == "c":  # its C code has yet to be compiled
        library = Path(tempfile.mkdtemp()) / "module.so"
        executable.export_library(str(library))
        executable = tvm.runtime.load_module(str(library))
    return relax.VirtualMachine(executable, DEVICE)


def fault(got, want, floor, noise, bias):
    """What is wrong with an output; empty if nothing is.

    `floor` is the rounding noise per element, `noise` the largest root mean square of errors in
    floors, `bias` the largest relative scaling that rounding can explain; None: compare exactly.
    """
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"it is {got.dtype}{list(got.shape)}, should be {want.dtype}{list(want.shape)}"
    if floor is None:
        error = wrong = got != want
    else:
        g, w = got.astype("float64"), want.astype("float64")
        same = (g == w) | (np.isnan(g) & np.isnan(w))
        with np.errstate(all="ignore"):
            error = np.where(same, 0.0, (g - w) / floor)
        wrong = ~(np.abs(error) <= LIMIT)
    if wrong.any():
        size = np.abs(np.nan_to_num(error.astype("float64"), nan=np.inf))
        at = np.unravel_index(np.argmax(size), got.shape)
        where = f"worst at {[int(i) for i in at]}: {got[at]!s}, should be {want[at]!s}"
        return f"{int(wrong.sum())} of {got.size} elements are wrong; {where}"
    if floor is not None and got.size:
        if (rms := float(np.sqrt(np.mean(error**2)))) > noise:
            return f"it is {rms / noise:.3g} times as noisy as rounding can explain"
        scaled = np.where(same & ~np.isfinite(w), 0.0, w) / floor
        if (power := float(np.vdot(scaled, scaled))) > 0:
            if abs(factor := float(np.vdot(error, scaled)) / power) > bias:
                return f"it is scaled by {1 + factor:.6g}"
    return ""


def main():
    print(f"TVM {tvm.__version__}, NumPy {np.__version__}, {TARGET.kind.name}")
    try:
        machine = build()
    except Exception as error:
        words = "\\n".join(ascii(line)[1:-1] for line in str(error)[-300:].strip().splitlines())
        print(f"it does not compile: {type(error).__name__}: {words}")
        return 1 if VERDICT == "COMPILE_ERROR" else 2
    found = 0
    for attempt in (1, 2):
        result = machine["main"](*[tvm.runtime.tensor(x, DEVICE) for x in INPUTS], *SIZES)
        results = [result] if len(OUTPUTS) == 1 else list(result)
        for k, (tensor, output) in enumerate(zip(results, OUTPUTS)):
            if words := fault(tensor.numpy(), *output):
                print(f"run {attempt}, output {k}: {words}")
                found = 1
    print("it reproduces" if found else "no difference")
    return found


if __name__ == "__main__":
    sys.exit(main())
'''


@dataclass(frozen=True)
class Case:
    """What a repro is made of.

    Attributes:
        target: the ``tvm.target.Target``.
        numbers: sizes that the module takes behind its inputs.
        limit: how many floors an element may be off.
        conversion: who converted it, in words, where not TVM's importer alone.
    """

    graph: Graph
    op: Op
    result: OpResult
    unit: UnitTexts
    target: Any
    inputs: Sequence[np.ndarray]
    numbers: Sequence[int]
    references: Sequence[Reference]
    limit: float
    conversion: str


def reproduce(engine: Engine, selector: Selector, path: Path, step: int) -> Path:
    """Write an operator that fails as a script; see :meth:`Session.repro
    <tapml_nb.session.Session.repro>`.  From any thread."""
    op = engine.the_operator(selector, step)
    result = engine.ledger.introduced.get((op.id, step))
    kind = engine.settings.target.kind
    if result is None:
        raise ValueError(f"op: {op.id} was not judged in step {step} yet; call run({op.id!r})")
    if result.verdict not in FAULTS:
        raise ValueError(f"op: {op.id} is {result.verdict}; a repro is of an operator that fails")
    if op.id in engine.kernels.overrides:
        raise ValueError(f"op: a kernel of yours is in the place of {op.id}; take it back first")
    if kind not in RUNNABLE:
        raise ValueError(f"op: TVM's package runs {', '.join(RUNNABLE)}, and this target is {kind}")
    check_writable(path, "repro.py")
    return engine.do(_write, path, op, step)


def _write(engine: Engine, path: Path, op: Op, step: int) -> Path:
    inputs = inspection.input_parts(engine, op, step)
    engine.source.vouch_for(op, step)
    kernels = engine.kernels
    unit = kernels.unit_key(op.id, step)
    case = Case(
        graph=engine.graph,
        op=op,
        result=engine.ledger.introduced[op.id, step],
        unit=kernels.unit_texts(op.id, step),
        target=kernels.target,
        inputs=inputs,
        numbers=unit[1] if isinstance(unit, tuple) else (),
        references=[one.on_host() for one in engine.references.local(op, step)],
        limit=engine.settings.tolerance,
        conversion=kernels.conversions.get(op.id, ""),
    )
    return write(path, case)


def write(path: Path, case: Case) -> Path:
    """Write the file, and the tensors beside it if they are large.

    Raises:
        ValueError: if it cannot be written.
    """
    arrays = _Arrays(path.with_suffix(".npz"))
    inputs = [arrays.text(f"input{k}", array) for k, array in enumerate(case.inputs)]
    outputs = [_output(arrays, k, r, case.limit) for k, r in enumerate(case.references)]
    device = "cuda" if case.target.kind.name == "cuda" else "cpu"
    script, module = _module(case.unit)
    parts = [
        CODING + _comments(case),
        _HOOK,
        "import ml_dtypes\nimport numpy as np\nimport tvm\nfrom numpy import inf, nan",
        f"from tvm import relax\n{script}",
        module,
        f"TARGET = tvm.target.Target({_plain(case.target.export())!a})",
        f"DEVICE = tvm.{device}()",
        f"VERDICT = {str(case.result.verdict)!a}",
        f"LIMIT = {case.limit!r}",
        arrays.loading(),
        f"INPUTS = [\n{_listed(inputs)}]",
        f"SIZES = [tvm.runtime.ShapeTuple({list(case.numbers)})]" if case.numbers else "SIZES = []",
        "# The source's outputs: values, noise per element, limits of noise and of bias.",
        f"OUTPUTS = [\n{_listed(outputs)}]\n\n",
        _PROGRAM,
    ]
    try:
        path.write_text("\n".join(filter(None, parts)), encoding="ascii")
        arrays.save()
    except OSError as error:
        raise ValueError(f"path: {path} cannot be written ({error.strerror})") from None
    return path


class _Arrays:
    """Arrays as Python expressions: written out while they are few elements, else loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = _INLINE
        self._beside: dict[str, np.ndarray] = {}

    def text(self, name: str, array: np.ndarray) -> str:
        """An expression that is the array."""
        twin = ""
        if array.dtype.isbuiltin != 1:  # NumPy cannot write the dtypes of ml_dtypes
            twin = f".view(ml_dtypes.{array.dtype.name})"
            array = array.view(f"uint{8 * array.dtype.itemsize}")
        self._left -= array.size
        if self._left >= 0:
            flat = f"np.array({array.reshape(-1).tolist()}, {array.dtype.name!r})"
            return f"{flat}.reshape({list(array.shape)}){twin}"
        self._beside[name] = array
        return f"DATA[{name!r}]{twin}"

    def loading(self) -> str:
        """The line that loads what is beside the file; empty if nothing is."""
        return "DATA = np.load(Path(__file__).with_suffix('.npz'))" if self._beside else ""

    def save(self) -> None:
        """Write what is beside the file."""
        if self._beside:
            np.savez(self._path, allow_pickle=False, **self._beside)


def _output(arrays: _Arrays, number: int, reference: Reference, limit: float) -> str:
    source, floor = reference.source, reference.floor
    want = arrays.text(f"output{number}", source)
    if floor is None:
        return f"({want}, None, None, None)"
    allowed = deviation(source, reference, limit).allowed
    noise = rms_limit(floor, source.dtype, limit) / floor.units
    bias = limit * bias_floor(floor, source.dtype, source.size)
    return f"({want}, {arrays.text(f'floor{number}', allowed)}, {noise!r}, {bias!r})"


def _module(unit: UnitTexts) -> tuple[str, str]:
    """Imports and text of a module: TVMScript where that is read back as the same, else JSON."""
    if not unit.script:
        return "", f"MODULE = tvm.ir.load_json({unit.json!a})\n"
    lines = unit.script.splitlines()
    imports = [found[1] for line in lines if (found := _IMPORT.fullmatch(line))]
    body = "\n".join(line for line in lines if not _IMPORT.fullmatch(line)).strip()
    return "\n".join(imports) + "\n", f"\n{body}\n\n\nMODULE = Module"


def _plain(value: Any) -> Any:
    """TVM's containers as Python's."""
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if hasattr(value, "items"):
        return {str(key): _plain(member) for key, member in value.items()}
    return [_plain(member) for member in value]


def _listed(texts: Sequence[str]) -> str:
    whole = textwrap.TextWrapper(
        100, " " * 4, " " * 8, break_long_words=False, break_on_hyphens=False
    )
    return "".join(whole.fill(f"{text},") + "\n" for text in texts)


def _comments(case: Case) -> str:
    """What it is, in comments: nothing of it ends its line, or says how the file is encoded."""
    op, result = case.op, case.result
    line = op.source
    facts = [
        f"{op.id} of {case.graph.name} on {case.target.kind.name}: {result.verdict}",
        result.message,
        f"PyTorch: {', '.join(op.primitives)} with {dict(op.constants)}",
        f"called at {line.file}:{line.line}: {line.text}" if line else "",
        case.conversion,
        _USE,
    ]
    comment = textwrap.TextWrapper(100, "# ", "#   ")
    return "".join(comment.fill(_visible(" ".join(fact.split()))) + "\n" for fact in facts if fact)


def _visible(text: str) -> str:
    """Text in visible ASCII; the rest stands there as in a literal."""
    return "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in text)
