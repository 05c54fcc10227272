"""The command line: exit statuses, one-line errors, and being a target for somebody else."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

import tapml_nb as tapml
from tapml_nb import Target, cli
from tests import kernels
from tests.models import two_layers


def tapml_command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "tapml_nb.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


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


def test_replay_passes(bundles, tmp_path):
    page = tmp_path / "report.html"
    done = tapml_command("replay", bundles / "good.tapml", "--target", "llvm", "--html", page)
    assert done.returncode == 0, done.stderr
    assert "3 PASS" in done.stdout
    assert "act/silu" in page.read_text()


def test_replay_fails_with_the_culprit(bundles):
    done = tapml_command("replay", bundles / "bad.tapml")
    assert done.returncode == 1
    assert "culprit 1: act/silu FAIL" in done.stdout


@pytest.mark.parametrize("name", ["good", "bad"])
def test_report(bundles, capsys, name):
    assert cli.main(["report", str(bundles / f"{name}.tapml")]) == (name == "bad")
    out = capsys.readouterr().out
    assert "second/linear" in out
    assert ("no culprit among 3 judged operators" in out) == (name == "good")
    assert ("  1 culprit\n  culprit 1: act/silu FAIL" in out) == (name == "bad")
    assert ("its repro: Bundle.open(" in out) == (name == "bad")


@pytest.mark.parametrize("name", ["good", "bad"])
def test_one_repro_for_each_cause(bundles, capsys, tmp_path, name):
    folder = tmp_path / "repros"
    arguments = ["replay", str(bundles / f"{name}.tapml"), "--repro", str(folder)]
    assert cli.main(arguments) == (name == "bad")
    written = [path.name for path in folder.iterdir()]
    assert written == (["culprit_1.py"] if name == "bad" else [])
    assert ("repro of culprit 1: " in capsys.readouterr().out) == (name == "bad")


def test_report_as_csv(bundles, capsys):
    cli.main(["report", str(bundles / "good.tapml"), "--csv"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("op,kind,scope,step")
    assert len(lines) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["replay", "missing.tapml"], "missing.tapml does not exist"),
        (["report", "missing.tapml"], "missing.tapml does not exist"),
        (["replay", "{good}", "--target", "gpu"], "unknown kind 'gpu'"),
        (["replay", "{good}", "--timeout", "0"], "timeout is 0.0"),
        (["replay", "{good}", "--rpc", "nowhere"], "give 'host:port/key'"),
        (["replay", "{good}", "--target", "cuda"], "cannot be used here"),
    ],
    ids=lambda p: "-".join(p)[:30] if isinstance(p, list) else "",
)
def test_errors_are_one_line_and_status_two(bundles, arguments, words):
    good = str(bundles / "good.tapml")
    done = tapml_command(*[a.format(good=good) for a in arguments])
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_what_nobody_expected_is_one_line_too(bundles, monkeypatch, capsys):
    def fails(self, *_, **__):
        raise RuntimeError("two\n\x1b[31mlines")

    monkeypatch.setattr("tapml_nb.carve.Bundle.frame", fails)
    assert cli.main(["report", str(bundles / "good.tapml")]) == 2
    error = capsys.readouterr().err
    assert error == "tapml: unexpected RuntimeError: two \\x1b[31mlines\n"


def test_the_help_says_that_replaying_runs_code():
    done = tapml_command("replay", "--help")
    assert "compiles and runs what the bundle holds" in " ".join(done.stdout.split())


def test_usage_error():
    assert tapml_command("replya").returncode == 2
    assert tapml_command().returncode == 2


def test_doctor(capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"works\s+llvm", out)
    assert re.search(r"missing\s+cuda", out)
    assert "Target('webgpu', rpc='browser')" in out
    assert "apache-tvm 0.27" in out


@pytest.fixture
def served():
    server = subprocess.Popen(
        [sys.executable, "-m", "tapml_nb.cli", "serve"], stdout=subprocess.PIPE, text=True
    )
    assert "serving on 127.0.0.1" in server.stdout.readline()
    rpc = re.search(r"rpc='([^']+)'", server.stdout.readline())[1]
    yield rpc, server
    server.send_signal(signal.SIGINT)
    assert server.wait(5) == 0


def test_serve_is_a_target_for_another_process(served, bundles):
    rpc, _ = served
    with tapml.debug(*two_layers(), target=Target("llvm", rpc=rpc, timeout=1.0)) as session:
        assert session.run().ok
        session.override("act", kernels.segfaults)
        report = session.run()
        assert str(report.verdict("act/silu")) == "CRASH"
        session.override("act", kernels.loops)
        assert str(session.run("act").verdict("act/silu")) == "TIMEOUT"
        session.override("act", None)
        assert session.run().ok
    done = tapml_command("replay", bundles / "good.tapml", "--rpc", rpc)
    assert done.returncode == 0, done.stderr


def test_the_key_need_not_be_an_argument(served, bundles, tmp_path, monkeypatch, capsys):
    """It is in the environment, or in a file; what is there is used: a wrong one is refused."""
    rpc, _ = served
    replay = ["replay", str(bundles / "good.tapml")]
    address = tmp_path / "address"
    address.write_text(f"{rpc}\n")
    assert cli.main([*replay, "--rpc", f"@{address}"]) == 0
    monkeypatch.setenv("TAPML_RPC", rpc)
    assert cli.main(replay) == 0
    wrong = rpc.partition("/")[0] + "/wrong"
    monkeypatch.setenv("TAPML_RPC", wrong)
    assert cli.main(replay) == 2
    assert cli.main([*replay, "--rpc", f"@{address}"]) == 0
    address.write_text(wrong)
    assert cli.main([*replay, "--rpc", f"@{address}"]) == 2
    capsys.readouterr()
    assert cli.main([*replay, "--rpc", f"@{tmp_path / 'none'}"]) == 2
    assert "none cannot be read: No such file" in capsys.readouterr().err


def test_serve_refuses_a_wrong_key(served, bundles):
    rpc = served[0].partition("/")[0] + "/wrong"
    done = tapml_command("replay", bundles / "good.tapml", "--rpc", rpc)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_magic_is_the_command(bundles, capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.run_line_magic("load_ext", "tapml_nb")
    shell.run_line_magic("tapml", f"report {bundles / 'good.tapml'}")
    assert "second/linear" in capsys.readouterr().out
    shell.run_line_magic("tapml", "no-such-command")
    assert "invalid choice" in capsys.readouterr().err
