"""The documentation as a site: it is built without a warning and reads nothing from elsewhere; its
how-to pages do what they say, and the messages that it explains are the package's.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import tapml_nb as tapml
from tapml_nb import cli

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TASKS = [DOCS / "index.md", *sorted((DOCS / "howto").glob("*.md"))]

RUN = ["index.md", "howto/gibberish.md", "howto/crash.md", "howto/ci.md"]
"""Pages whose Python runs here; the others need a browser or a board, as other tests have."""

_BLOCK = re.compile(r"^( *)```(python|sh)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of code of a page, as they would be typed."""
    return [
        re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)
        for indent, found, text in _BLOCK.findall(page.read_text())
        if found == language
    ]


def sphinx(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(source), str(target)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = sphinx(DOCS, folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_the_reference_tells_of_every_public_name(site):
    page = (site / "reference.html").read_text()
    for name in tapml.__all__:
        assert f'id="tapml_nb.{name}"' in page, name


def test_reading_it_needs_no_network(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=\"([^\"]*)", page.read_text())
        loaded += re.findall(r"<link[^>]*\shref=\"([^\"]*)", page.read_text())
        assert not [address for address in loaded if "//" in address], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", sheet.read_text()), sheet


def test_a_link_that_leads_nowhere_is_an_error(tmp_path):
    source = tmp_path / "docs"
    source.mkdir()
    shutil.copy(DOCS / "conf.py", source)
    (source / "index.md").write_text("# Here\n\n[there](nowhere.md), [below](#nothing)\n")
    done = sphinx(source, tmp_path / "site")
    assert done.returncode != 0
    assert "nowhere" in done.stderr
    assert "nothing" in done.stderr


class Net(nn.Module):
    """Two operators that pass, and one that fails: TVM ignores the divisor."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.pool = nn.AvgPool2d(2, divisor_override=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.fc(x))


@pytest.mark.parametrize("name", RUN)
def test_a_page_does_what_it_says(name, tmp_path, monkeypatch):
    """Its Python as it stands, one block after the other, on a model with one fault."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    x = torch.randn(1, 1, 8, 8)
    names = {"tapml": tapml, "model": Net().eval(), "x": x, "input_ids": x}
    opened, debug = [], tapml.debug

    def noted(*arguments, **settings):
        opened.append(debug(*arguments, **settings))
        return opened[-1]

    monkeypatch.setattr(tapml, "debug", noted)
    try:
        for text in blocks(DOCS / name, "python"):
            exec(compile(text, name, "exec"), names)
    finally:
        for session in opened:
            session.close()
    if name == "howto/ci.md":
        assert cli.main(["replay", "model.tapml", "--target", "llvm"]) == cli.FAILED
        assert (tmp_path / "carved_tests" / "test_carved.py").exists()
    else:
        assert [cause.worst for cause in opened[0].report.causes] == ["pool/avg_pool2d"]
    assert (tmp_path / "bug.py").exists() == (name == "howto/gibberish.md")


@pytest.mark.parametrize("page", TASKS, ids=lambda page: page.stem)
def test_targets_that_a_page_names_can_be_meant(page):
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "tapml.Target":
                triple = {"kind": "llvm", "mtriple": "aarch64-linux-gnu"}
                eval(ast.unparse(node), {"tapml": tapml, "triple": triple})


@pytest.mark.parametrize("page", TASKS, ids=lambda page: page.stem)
def test_commands_that_a_page_names_are_there(page):
    makefile = (ROOT / "Makefile").read_text()
    for line in "\n".join(blocks(page, "sh")).splitlines():
        if not line.strip():
            continue
        command, *arguments = line.partition("#")[0].split()
        if command == "tapml":
            cli._parser().parse_args(arguments)
        elif command == "make":
            assert re.search(rf"^{arguments[0]}:", makefile, re.MULTILINE), line
        else:
            assert command in ("pip", "pytest", "ssh"), line


def said() -> list[str]:
    """Every text in the package's code, ``…`` for what is put in."""
    texts = []
    for path in (ROOT / "tapml_nb").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return [re.sub("…+", "…", text) for text in texts]


def unsaid(page: str) -> list[str]:
    """Messages that stand as headings of a page and that the package does not have."""
    texts = said()
    return [
        message
        for message in re.findall(r"^### `(.+)`$", page, re.MULTILINE)
        if not any(message in text for text in texts)
    ]


def test_messages_that_are_explained_exist():
    page = (DOCS / "troubleshooting.md").read_text()
    assert page.count("\n### `") > 20
    assert unsaid(page) == []


def test_a_message_that_does_not_exist_is_seen():
    page = (
        "### `the session is closed; make a new one with tapml_nb.debug`\n### `no such words: …`\n"
    )
    assert unsaid(page) == ["no such words: …"]
