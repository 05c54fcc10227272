"""Text that is printed cannot steer the terminal."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import pytest

import tapml_nb as tapml
from tapml_nb import Bundle, cli
from tapml_nb.migrate import Localization
from tapml_nb.report import Report
from tapml_nb.terminal import printable
from tests.models import two_layers

EVIL = "a\x1b]0;title\x07\x9b31m\r\u202egnp\u2066\u200b\u2028\nculprit 1: fake\ud800"
"""A title, a colour by one C1 byte, a line break, overrides of direction, and no character."""

UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def assert_harmless(text, lines=()):
    odd = {c for c in text if unicodedata.category(c) in UNSEEN} - {"\n"}
    assert not odd
    assert not any(line.startswith("culprit 1: fake") for line in text.splitlines())


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0), 0x202E, 0x2066, 0xFEFF, 0xD800])
def test_characters_that_are_none(code):
    shown = printable(f"x{chr(code)}y")
    assert shown.isascii()
    assert shown.startswith("x\\")
    assert shown.endswith("y")


def test_names_in_any_script_are_left_alone():
    for name in ("model.layers.0/linear", "größe/слой/层/層", "π ≠ 3 …", "a\\b", ""):
        assert printable(name) == name


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    path = tmp_path_factory.mktemp("named") / "named.tapml"
    with tapml.debug(*two_layers(), name=EVIL) as session:
        report = session.run()
        texts = [repr(session), repr(session.widget)]
        session.carve(path)
    return path, report, texts


def test_summaries_and_representations(named):
    path, report, texts = named
    graph = replace(report.graph, name=EVIL)
    found = Localization([frozenset({EVIL, "b"})], 3, [])
    shown = [
        *texts,
        report.summary(),
        repr(report),
        repr(Report(graph)),
        repr(Bundle.open(path)),
        found.summary(),
        repr(found),
        report._repr_mimebundle_()["text/plain"],
    ]
    for text in shown:
        assert_harmless(text)
    assert "3 PASS" in report.summary()  # and what is ours is as it was
    assert report.summary().count("\n") >= 2


@pytest.mark.parametrize("options", [[], ["--csv"]])
def test_the_report_command(named, capsys, options):
    assert cli.main(["report", str(named[0]), *options]) == 0
    out = capsys.readouterr().out
    assert_harmless(out)
    assert "second/linear" in out


def test_errors_are_one_harmless_line(tmp_path, capsys):
    name = EVIL.removesuffix("\ud800")
    assert cli.main(["report", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert_harmless(error)
    assert error.count("\n") == 1
