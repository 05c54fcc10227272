"""The ``tapml`` command: replay and report bundles, serve this machine as a target, doctor.

Exit status: 0 when everything passes, 1 when some operator fails, 2 for a usage or environment
error (one line on stderr).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tapml_nb.targets.errors import TargetError, TargetLost

OK, FAILED, ERROR = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parsed = _parser().parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
    except (ValueError, OSError, TargetError, TargetLost) as error:
        print(f"tapml: {error}", file=sys.stderr)
        return ERROR
    except KeyboardInterrupt:
        print("tapml: stopped", file=sys.stderr)
        return ERROR
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tapml",
        description="Bring a model up on a new device: replay carved operators, serve a target.",
        epilog="Exit status: 0 all pass, 1 some operator fails, 2 usage or environment error.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    replay = commands.add_parser("replay", help="judge every operator of a bundle on a target")
    replay.add_argument("bundle", type=Path)
    replay.add_argument("--target", default="llvm", help="llvm, c, … (default: %(default)s)")
    replay.add_argument("--device", type=int, default=0, help="which of several, from 0")
    replay.add_argument(
        "--rpc", help="host:port/key of a running 'tapml serve', or an address of TVM's own servers"
    )
    replay.add_argument(
        "--timeout", type=float, default=30.0, help="seconds per call (default: %(default)s)"
    )
    replay.add_argument("--guard", action="store_true", help="memory between guard pages (CPUs)")
    replay.add_argument("--tolerance", type=float, help="noise floors allowed (default: 8)")
    replay.add_argument("--html", type=Path, help="also write the report to this HTML file")
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

    doctor = commands.add_parser("doctor", help="which targets work here, and what is missing")
    doctor.set_defaults(run=_doctor)
    return parser


def _replay(parsed: argparse.Namespace) -> int:
    from tapml_nb.carve import Bundle
    from tapml_nb.targets.spec import Target

    bundle = Bundle.open(parsed.bundle)
    target = Target(
        parsed.target,
        rpc=parsed.rpc,
        timeout=parsed.timeout,
        guard=parsed.guard,
        device=parsed.device,
    )
    report = bundle.replay(target, tolerance=parsed.tolerance)
    print(report.summary())
    if parsed.html:
        print(f"report: {report.to_html(parsed.html)}")
    return OK if report.ok else FAILED


def _report(parsed: argparse.Namespace) -> int:
    from tapml_nb.carve import Bundle

    bundle = Bundle.open(parsed.bundle)
    frame = bundle.frame()
    if parsed.csv:
        frame.to_csv(sys.stdout, index=False)
    else:
        counts = frame["verdict"].fillna("not judged").value_counts()
        print(f"{bundle!r}\n  " + ", ".join(f"{n} {verdict}" for verdict, n in counts.items()))
        columns = ["op", "kind", "step", "verdict", "inputs", "outputs"]
        print(frame[columns].to_string(index=False, max_colwidth=60))
    broken = ~frame["verdict"].isin(["PASS", "SKIPPED", "UNSUPPORTED"])
    return FAILED if broken.any() else OK


def _serve(parsed: argparse.Namespace) -> int:
    from tapml_nb.targets import server

    return server.serve_standalone(parsed.host, parsed.port)


def _doctor(parsed: argparse.Namespace) -> int:
    from importlib.metadata import PackageNotFoundError, version

    from tapml_nb.compile.cache import KernelCache
    from tapml_nb.targets.availability import check_all

    print(f"python {sys.version.split()[0]}, {os.cpu_count()} cores")
    for package in ("apache-tvm", "apache-tvm-ffi", "torch", "numpy", "jupyterlab"):
        try:
            print(f"  {package} {version(package)}")
        except PackageNotFoundError:
            print(f"  {package} is not installed")
    print(f"kernel cache: {KernelCache().root}")
    states = check_all()
    for state in states:
        print(f"  {'works  ' if state.works else 'missing'}  {state.kind}: {state.reason}")
    print("  any browser with WebGPU: Target('webgpu', rpc='browser')")
    return OK if any(state.works for state in states) else ERROR


if __name__ == "__main__":
    sys.exit(main())
