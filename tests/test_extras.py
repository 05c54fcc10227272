"""The bare package: a target's server and a replay do without what the extras bring, and what
does not says what to install.

Packages of the extras are kept from a process by a finder in front of all others.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import tapml_nb as tapml
from tapml_nb.extras import PARTS, MissingPart, may_need_extras
from tests import kernels
from tests.models import two_layers

BARE = """\
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""

ABSENT = sorted({part.module for part in PARTS} | {"IPython", "jupyter_server", "traitlets"})


LOOKS = [
    ("tapml_nb.debug(object(), ())", "torch", "torch"),
    ("tapml_nb.decode_steps", "torch", "torch"),
    ("bundle.frame()", "pandas", "notebook"),
    ("report.frame()", "pandas", "notebook"),
    ("report.diff(report)", "pandas", "notebook"),
    ("report.graph.frame()", "pandas", "notebook"),
    ("report.plot()", "matplotlib", "notebook"),
    ("report.heatmap()", "matplotlib", "notebook"),
    ("report.heatmap_table()", "pandas", "notebook"),
    ("report.to_html(sys.argv[2])", "pandas", "notebook"),
]
"""Lines of code, the package that each misses, and the extra that brings it."""


def bare(code: str, *arguments: str | Path) -> list[str]:
    """A command that runs Python code as the bare package would."""
    return [sys.executable, "-c", BARE.format(absent=ABSENT) + code, *map(str, arguments)]


def bare_command(*arguments: str | Path) -> list[str]:
    return bare("from tapml_nb.cli import main\nsys.exit(main(sys.argv[1:]))", *arguments)


def done(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    with tapml.debug(*two_layers()) as session:
        session.run()
        session.carve(folder / "good.tapml")
        session.override("act", kernels.forgets_a_row)
        session.run()
        session.carve(folder / "bad.tapml")
    return folder


@pytest.fixture(scope="module")
def served():
    """The address of a bare ``tapml serve``."""
    with subprocess.Popen(bare_command("serve"), stdout=subprocess.PIPE, text=True) as server:
        server.stdout.readline()
        yield re.search(r"rpc='([^']+)'", server.stdout.readline())[1]
        server.terminate()


@pytest.mark.parametrize(("name", "status", "words"), [("good", 0, "3 PASS"), ("bad", 1, "1 FAIL")])
def test_a_bare_replay_on_a_bare_server(bundles, served, name, status, words):
    replay = done(bare_command("replay", bundles / f"{name}.tapml", "--rpc", served))
    assert (replay.returncode, replay.stderr) == (status, "")
    assert words in replay.stdout


def test_a_bare_replay_on_this_machine_writes_repros(bundles, tmp_path):
    replay = done(bare_command("replay", bundles / "bad.tapml", "--repro", tmp_path))
    assert replay.returncode == 1, replay.stderr
    assert (tmp_path / "culprit_1.py").exists()


def test_bare_import_brings_nothing_heavy():
    code = "import tapml_nb\nprint(sorted({m.partition('.')[0] for m in sys.modules}))"
    assert not set(re.findall(r"\w+", done(bare(code)).stdout)) & {"numpy", "tvm", *ABSENT}


def test_the_bare_doctor_says_what_each_missing_part_is_for():
    out = done(bare_command("doctor"))
    assert out.returncode == 0, out.stderr
    assert re.search(r"works\s+llvm", out.stdout)


def test_the_doctor_says_what_is_missing_and_what_for(monkeypatch, capsys):
    from tapml_nb import cli, extras

    gone = extras.Part("no-such-package", "notebook", "the workbench")
    monkeypatch.setattr(cli, "PARTS", [*PARTS, gone])
    cli.main(["doctor"])
    out = capsys.readouterr().out
    words = "no-such-package is missing: for the workbench; pip install 'tapml_nb[notebook]'"
    assert words in out
    assert "pandas is missing" not in out


@pytest.mark.parametrize(("code", "package", "extra"), LOOKS)
def test_what_is_missing_says_what_to_install(code, package, extra, looked_at):
    said = looked_at[code]
    assert said.startswith(f"MissingPart {package} is missing, which is there for ")
    assert said.endswith(f": pip install 'tapml_nb[{extra}]'")


@pytest.fixture(scope="module")
def looked_at(bundles):
    """What each line of code raises in one bare process that has replayed a bundle."""
    script = (
        "import tapml_nb\n"
        "bundle = tapml_nb.Bundle.open(sys.argv[1])\n"
        "report = bundle.replay()\n"
        f"for line in {[code for code, *_ in LOOKS]!r}:\n"
        "    try:\n"
        "        print(line, 'gave', eval(line), sep='\\t')\n"
        "    except Exception as error:\n"
        "        print(line, f'{type(error).__name__} {error}', sep='\\t')\n"
    )
    ran = done(bare(script, bundles / "good.tapml", "page.html"))
    assert ran.returncode == 0, ran.stderr
    return dict(line.split("\t", 1) for line in ran.stdout.splitlines())


def test_the_command_says_it_in_one_line(bundles):
    out = done(bare_command("report", bundles / "good.tapml"))
    assert out.returncode == 2
    assert out.stderr == (
        "tapml: pandas is missing, which is there for tables: pip install 'tapml_nb[notebook]'\n"
    )


def test_an_import_of_something_else_fails_as_it_does():
    with pytest.raises(ModuleNotFoundError, match="nothing_of_ours") as caught, may_need_extras():
        import_module("nothing_of_ours")
    assert not isinstance(caught.value, MissingPart)
