"""The package as it is installed, and the two files that list its dependencies."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import entry_points
from importlib.metadata import version as metadata_version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from tapml_nb.extras import PARTS

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOTEBOOK = [*PROJECT["dependencies"], *EXTRAS["torch"], *EXTRAS["notebook"][1:]]
"""What `tapml_nb[notebook]` brings; the first of its own is `tapml_nb[torch]`."""


def environment() -> dict[str, Requirement]:
    """Every requirement of environment.yml by name."""
    data = yaml.safe_load((ROOT / "environment.yml").read_text())
    plain = [d for d in data["dependencies"] if isinstance(d, str)]
    pip = next(d["pip"] for d in data["dependencies"] if isinstance(d, dict))
    lines = [*plain, *(line for line in pip if not line.startswith("--"))]
    return {Requirement(line).name: Requirement(line) for line in lines}


@pytest.mark.parametrize("dependency", NOTEBOOK)
def test_environment_and_pyproject_agree(dependency):
    requirement = Requirement(dependency)
    assert environment()[requirement.name].specifier == requirement.specifier


def test_environment_brings_nothing_else():
    beside = {"python", "pip", "c-compiler"}
    assert set(environment()) - beside == {Requirement(line).name for line in NOTEBOOK}
    assert EXTRAS["notebook"][0] == "tapml_nb[torch]"


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.package)
def test_each_extra_brings_what_is_said_of_it(part):
    assert part.package in {Requirement(line).name for line in EXTRAS[part.extra]}
    assert part.package not in {Requirement(line).name for line in PROJECT["dependencies"]}


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


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the sdist of this checkout."""
    from hatchling.build import build_sdist, build_wheel

    folder = tmp_path_factory.mktemp("dist")
    with contextlib.chdir(ROOT):
        return folder / build_wheel(str(folder)), folder / build_sdist(str(folder))


def test_the_registry_would_take_both(built):
    """Metadata, and the README as it would be shown."""
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


def test_a_wheel_of_the_sdist_is_the_wheel(built, tmp_path):
    """Also its version, though an sdist knows no git; that it can be built at all."""
    from hatchling.build import build_wheel

    wheel, sdist = built
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    with contextlib.chdir(source):
        again = tmp_path / build_wheel(str(tmp_path))
    assert again.name == wheel.name
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert set(first.namelist()) == set(second.namelist())


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as archive:
        names = archive.namelist()
    assert "tapml_nb/py.typed" in names
    assert "tapml_nb/targets/server/listener.py" in names
    assert "tapml_nb/widgets/static/workbench.js" in names
    assert "tapml_nb/targets/server/static/page.html" in names
    assert "tapml_nb/targets/server/static/page.js" in names
    release = "-".join(built[0].name.split("-")[:2])
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


def test_the_version_is_that_of_the_last_tag(tmp_path):
    """Of two commits the first is a release; without tags there is none."""
    from hatchling.metadata.core import ProjectMetadata
    from hatchling.plugin.manager import PluginManager

    def git(*arguments):
        who = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    def version():
        return ProjectMetadata(str(tmp_path), PluginManager()).version

    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    assert version() == "0.1.0.dev0"
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    assert version().startswith("0.1.0.dev1+")
    git("tag", "v0.3.0")
    assert version() == "0.3.0"
    git("commit", "--allow-empty", "-m", "two")
    assert version().startswith("0.3.1.dev1+")


def test_the_package_knows_its_version():
    import tapml_nb

    assert Version(tapml_nb.__version__) == Version(metadata_version("tapml_nb"))


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
