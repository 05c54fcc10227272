"""The front end that is committed is what its sources make."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "extensions" / "widgets"
PACKAGE = ROOT / "tapml_nb"
STATIC = PACKAGE / "widgets" / "static"
PAGE = PACKAGE / "targets" / "server" / "static"
REPORT = PACKAGE / "report" / "static"


def test_the_bundle_is_built_from_the_sources(tmp_path):
    done = subprocess.run(
        ["node", "build.mjs", str(tmp_path)],
        cwd=SOURCES,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    built = [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")]
    written = {
        path.relative_to(PACKAGE) for folder in (STATIC, PAGE, REPORT) for path in folder.iterdir()
    }
    assert {*built} == written - {Path("targets/server/static/page.html")}
    for path in built:
        same = (tmp_path / path).read_bytes() == (PACKAGE / path).read_bytes()
        assert same, f"{path} is old: npm run build in extensions/widgets"


def test_the_bundle_stays_small():
    assert sum(path.stat().st_size for path in STATIC.iterdir()) < 165_000


def test_nothing_makes_html_of_text():
    for path in (SOURCES / "src").rglob("*.ts"):
        text = path.read_text()
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"):
            assert way not in text, f"{path.name}: {way}"


def test_nothing_is_loaded_from_elsewhere():
    for path in (*STATIC.iterdir(), *PAGE.iterdir(), *REPORT.iterdir()):
        text = path.read_text()
        assert "https://" not in text
        assert "http://" not in text.replace("http://www.w3.org/", "")
