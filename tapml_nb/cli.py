"""The ``tapml`` command: replay and report bundles, serve this machine as a target, doctor.  It is
IPython's ``%tapml``, too.

Exit status: 0 when everything passes, 1 when some operator fails, 2 for a usage or environment
error (one line on stderr).  What comes from a bundle reaches the terminal as visible characters
alone.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapml_nb.extras import PARTS, MissingPart
from tapml_nb.targets.wire.errors import TargetError, TargetLost
from tapml_nb.terminal import printable

if TYPE_CHECKING:
    import pandas as pd

    from tapml_nb.carve import Bundle
    from tapml_nb.report import Report
    from tapml_nb.targets.spec import Target

OK, FAILED, ERROR = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parsed = _parser().parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
    except (ValueError, OSError, MissingPart, TargetError, TargetLost) as error:
        return _complain(str(error))
    except Exception as error:  # ours or TVM's; a terminal is no place for where it was
        logging.getLogger(__name__).debug("unexpected", exc_info=True)
        return _complain(f"unexpected {type(error).__name__}: {error}")
    except KeyboardInterrupt:
        print("tapml: stopped", file=sys.stderr)
        return ERROR
    return status


def register(shell: Any) -> None:
    """Make ``%tapml`` known to an IPython shell."""

    def tapml(line: str) -> None:
        """Run a ``tapml`` command; its output lands in the cell.

        Unlike in a shell, a failing status is no error: the report that was printed says it.
        """
        try:
            main(shlex.split(line))
        except SystemExit:  # argparse has printed the usage
            return

    shell.register_magic_function(tapml, "line", "tapml")


def _complain(words: str) -> int:
    print(printable(f"tapml: {' '.join(words.split())}"), file=sys.stderr)
    return ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tapml",
        description="Bring a model up on a new device: replay carved operators, serve a target.",
        epilog="Exit status: 0 all pass, 1 some operator fails, 2 usage or environment error.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    replay = commands.add_parser(
        "replay",
        help="judge every operator of a bundle on a target; runs the bundle's code",
        description="Judge every operator of a bundle on a target. This compiles and runs what the "
        "bundle holds: replay only bundles of people whose programs you would run.",
    )
    replay.add_argument("bundle", type=Path)
    replay.add_argument("--target", default="llvm", help="llvm, c, … (default: %(default)s)")
    replay.add_argument("--device", type=int, default=0, help="which of several, from 0")
    replay.add_argument(
        "--rpc",
        help="host:port/key of a running 'tapml serve', or an address of TVM's own servers; "
        "@FILE: what the file holds; default: what $TAPML_RPC holds. Other users of this machine "
        "see the arguments of a command, and so the key, but neither of these",
    )
    replay.add_argument(
        "--timeout", type=float, default=30.0, help="seconds per call (default: %(default)s)"
    )
    replay.add_argument("--guard", action="store_true", help="memory between guard pages (CPUs)")
    replay.add_argument("--tolerance", type=float, help="noise floors allowed (default: 8)")
    replay.add_argument("--html", type=Path, help="also write the report to this HTML file")
    replay.add_argument(
        "--repro", type=Path, help="also write one script into this folder for each cause"
    )
    replay.set_defaults(run=_replay)

    report = commands.add_parser("report", help="show what a bundle holds and what was said of it")
    report.add_argument("bundle", type=Path)
    report.add_argument("--csv", action="store_true", help="as CSV")
    report.set_defaults(run=_report)

    serve = commands.add_parser("serve", help="be a target for someone else's notebook")
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    serve.add_argument("--port", type=int, default=0, help="port (default: any free one)")
    serve.set_defaults(run=_serve)

    doctor = commands.add_parser(
        "doctor", help="which targets work here, what is missing, and what for"
    )
    doctor.set_defaults(run=_doctor)
    return parser


def _replay(parsed: argparse.Namespace) -> int:
    from tapml_nb.carve import Bundle
    from tapml_nb.targets.spec import Target

    bundle = Bundle.open(parsed.bundle)
    target = Target(
        parsed.target,
        rpc=_address(parsed.rpc),
        timeout=parsed.timeout,
        guard=parsed.guard,
        device=parsed.device,
    )
    report = bundle.replay(target, tolerance=parsed.tolerance)
    print(report.summary())
    if parsed.html:
        print(printable(f"report: {report.to_html(parsed.html)}"))
    if parsed.repro:
        _write_repros(bundle, report, target, parsed.repro)
    return OK if report.ok else FAILED


def _write_repros(bundle: Bundle, report: Report, target: Target, folder: Path) -> None:
    """One script for the worst operator of each cause."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, cause in enumerate(report.causes, 1):
        path = folder / f"culprit_{number}.py"
        try:
            step = report.culprit_of[cause.worst].step
            bundle.repro(cause.worst, path, step=step, target=target)
            print(printable(f"repro of culprit {number}: {path}"))
        except ValueError as error:
            print(printable(f"no repro of culprit {number}: {error}"))


def _address(given: str | None) -> str | None:
    """Where the target is.

    Raises:
        ValueError: if the file that holds it cannot be read.
    """
    if given is None:
        return os.environ.get("TAPML_RPC") or None
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ValueError(f"--rpc: {given[1:]} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"--rpc: {given[1:]} is no text; write host:port/key into it") from None


def _report(parsed: argparse.Namespace) -> int:
    from tapml_nb.carve import Bundle

    bundle = Bundle.open(parsed.bundle)
    frame = bundle.frame()
    for column in frame.columns.difference(["step", "line"]):
        frame[column] = frame[column].map(printable, na_action="ignore")
    if parsed.csv:
        frame.to_csv(sys.stdout, index=False)
    else:
        counts = frame["verdict"].fillna("not judged").value_counts()
        print(f"{bundle!r}\n  " + ", ".join(f"{n} {verdict}" for verdict, n in counts.items()))
        if bundle.versions:
            by = ", ".join(f"{package} {number}" for package, number in bundle.versions.items())
            print(printable(f"  written by {by}"))
        columns = ["op", "kind", "step", "verdict", "inputs", "outputs"]
        print(frame[columns].to_string(index=False, max_colwidth=60))
        recorded = _recorded(bundle.name, frame)
        print(printable(f"  {recorded.outcome}"))
        for rank, cause in enumerate(recorded.causes, 1):
            print(printable(f"  culprit {rank}: {cause}: {cause.diagnosis}"))
            opened = f"Bundle.open({str(bundle.path)!r})"
            print(printable(f"    its repro: {opened}.repro({cause.worst!r}, 'bug.py')"))
    broken = ~frame["verdict"].isin(["PASS", "SKIPPED", "UNSUPPORTED"])
    return FAILED if broken.any() else OK


def _recorded(name: str, frame: pd.DataFrame) -> Report:
    """The report of the session that carved a bundle, as far as the bundle holds it."""
    from tapml_nb.graph import Graph, Op
    from tapml_nb.judge.results import OpResult
    from tapml_nb.judge.verdict import Verdict
    from tapml_nb.report import Report

    rows: list[dict[Any, Any]] = frame.to_dict("records")
    ops = {r["op"]: Op(r["op"], r["kind"], r["scope"], "", "", (), (), None, ()) for r in rows}
    results = [
        OpResult(r["op"], r["step"], Verdict(r["verdict"]), message=r["message"])
        for r in rows
        if isinstance(r["verdict"], str)
    ]
    return Report(
        Graph(name, tuple(ops.values()), {}, (), ()),
        1 + max((r["step"] for r in rows), default=0),
        {(result.op, result.step): result for result in results},
    )


def _serve(parsed: argparse.Namespace) -> int:
    from tapml_nb.targets.server.listener import serve_standalone

    return serve_standalone(parsed.host, parsed.port)


def _doctor(parsed: argparse.Namespace) -> int:
    from importlib.metadata import version

    import tapml_nb
    from tapml_nb.compile.cache import KernelCache
    from tapml_nb.targets.client.availability import check_all

    print(f"python {sys.version.split()[0]}, {os.cpu_count()} cores")
    print(f"  tapml_nb {tapml_nb.__version__}")
    for package in ("apache-tvm", "apache-tvm-ffi", "numpy"):
        print(f"  {package} {version(package)}")
    for part in PARTS:
        if part.version:
            print(f"  {part.package} {part.version}")
        else:
            print(f"  {part.package} is missing: for {part.gives}; {part.command}")
    print(f"kernel cache: {KernelCache().root}")
    states = check_all()
    for state in states:
        print(f"  {'works  ' if state.works else 'missing'}  {state.kind}: {state.reason}")
    print("  any browser with WebGPU: Target('webgpu', rpc='browser')")
    return OK if any(state.works for state in states) else ERROR


if __name__ == "__main__":
    sys.exit(main())
