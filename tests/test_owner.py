"""A fork of the notebook's process takes nothing of its parent's with it."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tapml_nb.owner import Owner, finalize

PACKAGE = Path(__file__).parent.parent / "tapml_nb"

SESSION = """
import gc, os, sys
import tapml_nb as tapml
from tests import models

model, inputs = models.two_layers()
session = tapml.debug(model, inputs, target="llvm", max_memory="1 kB")
session.run()
sys.stdout.flush()
for ending in ("session.close()", "del session; gc.collect()", "sys.exit()", "session.run()"):
    pid = os.fork()
    if pid == 0:
        import signal
        signal.alarm(30)
        try:
            exec(ending)
        except RuntimeError as error:
            assert "a fork of it" in str(error), error
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0, ending
    report = session.run()
    assert {str(r.verdict) for r in report.introduced.values()} == {"PASS"}, ending
    assert session.status.restarts == 0, ending
session.override("act/silu", lambda x: x)  # and the compiler and the file of tensors are there
assert str(session.run().verdict("act/silu")) == "FAIL"
session.override("act/silu", None)
assert session.code("second/linear").tir
session.close()
print("done")
"""


def test_the_parents_session_goes_on(nothing_left, kernel_cache):
    done = subprocess.run(
        [sys.executable, "-c", SESSION],
        env=os.environ | {"TMPDIR": str(nothing_left)},
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "done"


class Subject:
    pass


@pytest.mark.parametrize("forked", [False, True])
def test_what_happens_at_an_objects_end(tmp_path, forked):
    mark = tmp_path / "mark"
    subject = Subject()
    finalize(subject, mark.touch)
    owner = Owner()
    pid = os.fork() if forked else 0
    if pid == 0:
        del subject
        if not forked:
            assert not owner.elsewhere
            assert mark.exists()
            return
        os._exit(owner.elsewhere and not mark.exists())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    del subject
    assert mark.exists()


def test_nothing_else_is_registered_at_an_objects_end():
    """All finalizers of the package are made by ``owner.finalize``, and ``__del__`` asks, too."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in (
                "weakref.finalize",
                "atexit.register",
            ):
                found.append((name, ast.unparse(node)))
            if isinstance(node, ast.ImportFrom) and node.module in ("weakref", "atexit"):
                harmless = ("ref", "WeakValueDictionary")
                found += [(name, alias.name) for alias in node.names if alias.name not in harmless]
            if isinstance(node, ast.FunctionDef) and node.name == "__del__":
                found.append((name, ast.unparse(node.body[-1])))
    assert set(found) == {
        ("owner.py", "weakref.finalize"),
        ("execute/storage.py", "self._storage.forget(self)"),
        # A map is each process's own: what a fork unmaps, nobody else misses.
        (
            "targets/wire/pages.py",
            "if hasattr(self, 'address'):\n    libc.munmap(self.address, self.size)",
        ),
    }


CLOSING = {
    "compile/compiler.py": ["Compiler.close"],
    "execute/loader.py": ["Loader.close"],
    "execute/storage.py": ["Storage.close", "Storage.forget"],
    "targets/client/connection.py": ["Connection.close", "Connection.sever"],
    "targets/client/supervisor.py": ["SupervisedConnection.close"],
    "engine/jobs.py": ["JobThread.stop"],
}


@pytest.mark.parametrize(("file", "names"), CLOSING.items())
def test_what_ends_something_asks_who_made_it(file, names):
    methods = {
        f"{kind.name}.{method.name}": method
        for kind in ast.walk(ast.parse((PACKAGE / file).read_text()))
        if isinstance(kind, ast.ClassDef)
        for method in kind.body
        if isinstance(method, ast.FunctionDef)
    }
    for name in names:
        first_test = next(n for n in methods[name].body if isinstance(n, ast.If))
        assert "self._owner.elsewhere" in ast.unparse(first_test.test), name
