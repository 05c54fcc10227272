"""The package as it is installed, and the two files that list its dependencies."""

from __future__ import annotations

import re
import tomllib
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def environment() -> dict[str, Requirement]:
    """Every requirement of environment.yml by name."""
    data = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [d for d in data["dependencies"] if isinstance(d, str)]
    pip = next(d["pip"] for d in data["dependencies"] if isinstance(d, dict))
    lines = [*plain, *(line for line in pip if not line.startswith("--"))]
    return {Requirement(line).name: Requirement(line) for line in lines}


@pytest.mark.parametrize("dependency", PROJECT["dependencies"])
def test_environment_and_pyproject_agree(dependency):
    requirement = Requirement(dependency)
    assert environment()[requirement.name].specifier == requirement.specifier


def test_environment_asks_for_the_same_python():
    assert str(environment()["python"].specifier) == PROJECT["requires-python"]


def test_tvm_ffi_is_pinned():
    """Later versions segfault in tvm.ir.save_json."""
    assert "apache-tvm-ffi==0.1.14.post1" in PROJECT["dependencies"]


def test_the_command_exists():
    (command,) = entry_points(group="console_scripts", name="tapml")
    assert callable(command.load())


def test_torch_is_the_cpu_build_unless_asked_for():
    """No gigabytes of CUDA packages come with the default installation."""
    import torch

    assert torch.version.cuda is None


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path, monkeypatch):
    from hatchling.build import build_wheel

    monkeypatch.chdir(ROOT)
    wheel = tmp_path / build_wheel(str(tmp_path))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "tapml_nb/py.typed" in names
    assert "tapml_nb/targets/server/listener.py" in names
    assert "tapml_nb/widgets/static/workbench.js" in names
    assert "tapml_nb/targets/server/static/page.html" in names
    assert "tapml_nb/targets/server/static/page.js" in names
    release = f"tapml_nb-{PROJECT['version']}"
    assert {name.split("/")[0] for name in names} == {
        "tapml_nb",
        f"{release}.data",
        f"{release}.dist-info",
    }
    data = f"{release}.data/data/"
    beside = {name.removeprefix(data) for name in names if name.startswith(data)}
    built = ROOT / "extensions" / "jupyterlab" / "labextension"
    extension = {str(path.relative_to(built)) for path in built.rglob("*") if path.is_file()}
    extension |= {f"static/{name}" for name in ("workbench.js", "workbench.css")}
    assert beside == {
        "etc/jupyter/jupyter_server_config.d/tapml_nb.json",
        "share/jupyter/labextensions/tapml-nb/static/uPlot.LICENSE.txt",
        *(f"share/jupyter/labextensions/tapml-nb/{name}" for name in extension),
    }


def test_versions_agree():
    import tapml_nb

    assert tapml_nb.__version__ == PROJECT["version"]


def test_the_readme_names_commands_and_files_that_exist():
    text = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"\((docs/[^)]+|[A-Z]+\.md)\)", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"(?:notebooks|benchmarks)/\w+\.(?:py|ipynb)", text):
        assert (ROOT / path).exists(), path


def test_nothing_is_pickled():
    for path in (ROOT / "tapml_nb").rglob("*.py"):
        text = path.read_text()
        assert "import pickle" not in text
        assert "allow_pickle=True" not in text
