"""Linking: as many objects as there are kernels, wherever they lie."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil

import pytest

from tapml_nb.compile import toolchain

_COMMAND_LINE = 8 * 2**20
"""More bytes than any Linux lets a command line have: 6 MB, however large the stack may be."""


@pytest.fixture
def compiled(tmp_path):
    source = tmp_path / "kernel.c"
    source.write_text("int answer(void) { return 42; }\n")
    toolchain.compile_c(source, tmp_path / "kernel.o")
    return tmp_path / "kernel.o"


@pytest.fixture(params=["compiler", "bare linker"], autouse=True)
def _linker(request, monkeypatch, compiled):
    """Both ways to link: by this machine's compiler, or, once all is compiled, without one."""
    if request.param == "bare linker":
        linker = shutil.which("ld")
        assert linker, "where gcc is, it is, too"
        monkeypatch.setattr(toolchain, "_system_compiler", lambda: None)
        monkeypatch.setattr(toolchain, "bare_linker", lambda machine: [linker])


def link(objects, library):
    toolchain.link_shared(objects, library, platform.machine())
    return ctypes.CDLL(str(library)).answer()


def test_more_objects_than_a_command_line_can_name(compiled, tmp_path):
    folder = tmp_path.joinpath(*["deep" * 60] * 12)
    folder.mkdir(parents=True)
    path = compiled.rename(folder / compiled.name)
    count = min(os.sysconf("SC_ARG_MAX"), _COMMAND_LINE) // len(str(path)) + 1
    assert link([path] * count, tmp_path / "library.so") == 42


@pytest.mark.parametrize("name", ["a b", "it's", '"quoted"', "back\\slash", "#1", "@2"])
def test_objects_of_any_name(compiled, tmp_path, name):
    path = compiled.rename(tmp_path / f"{name}.o")
    assert link([path], tmp_path / "library.so") == 42
