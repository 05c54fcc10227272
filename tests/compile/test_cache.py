"""The cache on disk: what is not whole, or not ours, is no entry, and only a log says so."""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import tvm
from tvm import relax

from tapml_nb.compile import cache as files
from tapml_nb.compile.cache import Compiled, Failure, KernelCache
from tapml_nb.compile.compiler import Compiler
from tapml_nb.compile.store import KernelStore
from tests.compile.test_compiler import add_unit, compile_all, cumsum_of_bool
from tests.conftest import wait_until


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    root = tmp_path_factory.mktemp("cache") / "kernels"
    compiler = Compiler(tvm.target.Target("llvm"), KernelCache(root), jobs=2)
    compile_all(compiler, add_unit(4), add_unit(5), cumsum_of_bool(), with_constant())
    yield compiler
    compiler.close()


def with_constant():
    """A unit that TVM folds to a constant."""
    builder = relax.BlockBuilder()
    x = relax.Var("p0", relax.TensorType([3], "float32"))
    two = relax.const([1.0, 2.0, 3.0], "float32")
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(relax.op.multiply(relax.op.add(two, two), x))
        builder.emit_func_output(out)
    return builder.get()


def halve(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def fill(text):
    return lambda path: path.write_text(text)


def anothers(path):
    other = path.parents[2] / KEYS["add 5"][:2] / KEYS["add 5"] / path.name
    shutil.copyfile(other, path)


def all_of_another(path):
    other = path.parents[2] / KEYS["add 5"][:2] / KEYS["add 5"]
    shutil.rmtree(path.parent)
    shutil.copytree(other, path.parent)


def in_place_of_the_folder(path):
    shutil.rmtree(path.parent)
    path.parent.write_text("")


def of_an_older_version(path):
    (path.parent / files.SEAL).unlink()
    path.unlink()
    (path.parent / files.ERROR).write_text('{"bad": 1}')


DAMAGE = {
    "truncated": halve,
    "empty": fill(""),
    "garbage": lambda path: path.write_bytes(os.urandom(999)),
    "another type": fill("[]"),
    "no fields": fill("{}"),
    "one bit": flip,
    "missing": Path.unlink,
    "another's": anothers,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a dead link": lambda path: (path.unlink(), path.symlink_to("/nonexistent")),
}
KEYS: dict[str, str] = {}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", [files.KERNEL, files.OBJECT, files.SEAL])
def test_a_damaged_entry_is_compiled_again(compiler, name, how):
    KEYS.update({"add 4": compiler.key(add_unit(4)), "add 5": compiler.key(add_unit(5))})
    compile_all(compiler, add_unit(4), add_unit(5))
    whole = compiler.cache.get(KEYS["add 4"])
    DAMAGE[how](compiler.cache.folder(KEYS["add 4"]) / name)
    before = compiler.compiled
    (again, honest) = compile_all(compiler, add_unit(4), add_unit(5))
    assert compiler.compiled == before + 1  # and the honest one was not touched
    assert again.kernel == whole.kernel
    assert again.code.read_bytes()[:4] == b"\x7fELF"
    assert isinstance(honest, Compiled)
    assert compiler.cache.get(KEYS["add 4"]) == again


@pytest.mark.parametrize(
    "damage",
    [all_of_another, in_place_of_the_folder, of_an_older_version],
    ids=lambda d: d.__name__,
)
def test_a_wrong_folder_is_no_entry(compiler, damage):
    KEYS.update({"add 4": compiler.key(add_unit(4)), "add 5": compiler.key(add_unit(5))})
    compile_all(compiler, add_unit(4), add_unit(5))
    damage(compiler.cache.folder(KEYS["add 4"]) / files.KERNEL)
    assert compiler.cache.get(KEYS["add 4"]) is None
    (again,) = compile_all(compiler, add_unit(4))
    assert again.kernel.key == KEYS["add 4"]


def test_the_log_says_what_was_not_found_and_what_was_rejected(compiler, caplog):
    caplog.set_level(logging.DEBUG, "tapml_nb.compile.cache")
    key = compiler.key(add_unit(4))
    compile_all(compiler, add_unit(4))
    flip(compiler.cache.folder(key) / files.OBJECT)
    assert compiler.cache.get(key) is compiler.cache.get(key) is None
    rejected, missed = (record for record in caplog.records if key in record.getMessage())
    assert rejected.levelno == logging.INFO
    assert rejected.getMessage().endswith(f"is no entry for kernel {key}: changed")
    assert missed.levelno == logging.DEBUG
    assert missed.getMessage() == f"the cache has no kernel {key}"


def test_a_damaged_failure_or_constant_is_compiled_again(compiler):
    for unit, name, kind in (
        (cumsum_of_bool(), files.ERROR, Failure),
        (with_constant(), files.CONSTANTS, Compiled),
    ):
        key = compiler.key(unit)
        assert isinstance(compiler.cache.get(key), kind)
        flip(compiler.cache.folder(key) / name)
        assert compiler.cache.get(key) is None
        assert isinstance(compile_all(compiler, unit)[0], kind)


def test_damaged_code_is_made_again(compiler):
    key = compiler.key(add_unit(4))
    code = compiler.code(key, add_unit(4))
    path = compiler.cache.folder(key).with_name(f"{key}.code.json")
    changed = json.loads(path.read_text())
    changed["code"]["tir"] = "another's"
    for text in (path.read_text()[:50], "", "{}", "[1]", json.dumps(changed)):
        path.write_text(text)
        assert compiler.cache.code(key) is None
        assert not path.exists()
    again = compiler.code(key, add_unit(4))
    assert again.tir == code.tir
    assert compiler.cache.code(key) == again


def test_constants_do_not_need_the_folder_any_more(compiler):
    (kernel,) = compile_all(compiler, with_constant())
    shutil.rmtree(kernel.folder)
    (array,) = kernel.constants.values()
    assert array.tolist() == [2.0, 4.0, 6.0]


class TestOthers:
    def test_the_root_is_the_users_alone(self, tmp_path):
        old = os.umask(0o002)
        try:
            root = KernelCache(tmp_path / "a" / "kernels").root
        finally:
            os.umask(old)
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
        readable = tmp_path / "b"
        readable.mkdir(mode=0o755)
        KernelCache(readable)
        assert stat.S_IMODE(readable.stat().st_mode) == 0o700

    @pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o720])
    def test_one_that_others_may_write_is_refused(self, tmp_path, mode):
        tmp_path.chmod(mode)
        with pytest.raises(ValueError, match=r"can be written by others .*TAPML_CACHE"):
            KernelCache(tmp_path)

    def test_one_of_another_user_is_refused(self, tmp_path):
        root = tmp_path / "theirs"
        root.mkdir()
        if os.geteuid():
            root = Path("/usr")
        else:
            os.chown(root, 65534, 65534)
        with pytest.raises(ValueError, match=r"belongs to another user .*TAPML_CACHE"):
            KernelCache(root)


class TestSweeping:
    CODE = (
        "import sys, time, pathlib\n"
        "from tapml_nb.compile.cache import KernelCache\n"
        "from tapml_nb.compile.store import KernelStore\n"
        "store = KernelStore(KernelCache(pathlib.Path(sys.argv[1])))\n"
        "for space in store.spaces: print(space.new('unit-'), flush=True)\n"
        "time.sleep(60)\n"
    )

    def test_what_a_killed_session_left_goes_and_a_living_ones_stays(self, tmp_path, monkeypatch):
        import tempfile

        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr(tempfile, "tempdir", None)
        root = tmp_path / "cache"
        owner = subprocess.Popen(
            [sys.executable, "-c", self.CODE, str(root)], stdout=subprocess.PIPE, text=True
        )
        folders = [Path(owner.stdout.readline().strip()) for _ in range(2)]
        KernelStore(KernelCache(root))
        assert all(folder.is_dir() for folder in folders)
        owner.kill()
        owner.wait()
        owner.stdout.close()
        cache = KernelStore(KernelCache(root)).cache
        assert not any(folder.parent.exists() for folder in folders)
        assert list(cache.root.iterdir()) == []

    def test_a_fork_that_ends_takes_nothing_with_it(self, tmp_path):
        workspace, _ = KernelStore(KernelCache(tmp_path / "cache")).spaces
        folder = workspace.new("unit-")
        child = os.fork()
        if not child:
            try:
                workspace.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert folder.is_dir()
        KernelStore(KernelCache(tmp_path / "cache"))  # sweeps, and the parent still holds the lock
        assert folder.is_dir()
        workspace.close()
        assert not folder.parent.exists()

    def test_one_that_somebody_removed_is_made_again(self, tmp_path):
        workspace, _ = KernelStore(KernelCache(tmp_path / "cache")).spaces
        workspace.new("unit-")
        shutil.rmtree(tmp_path / "cache")
        assert wait_until(workspace.new("unit-").is_dir)
        workspace.close()
