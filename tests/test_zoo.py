"""The zoo: every model of it builds and says something, and a few go through from end to end."""

from __future__ import annotations

import math
import multiprocessing
import re
import threading
import time
from dataclasses import replace

import pytest
import torch

from benchmarks.zoo import __main__ as command
from benchmarks.zoo.apart import apart, key, line, read
from benchmarks.zoo.architecture import rms, settle
from benchmarks.zoo.architectures import ALL, ARCHITECTURES, EVERYDAY
from benchmarks.zoo.document import document, replaced, unexplained
from benchmarks.zoo.explanations import EXPLANATIONS
from benchmarks.zoo.measure import Finding, Record
from benchmarks.zoo.stock import check
from tapml_nb.frontends.torch.workarounds import choose

NOTHING = Record("LSTM", "sequence", key("LSTM", "float32"))
FINDING = Finding("aten.relu", "FAIL", "", "a | b", 2, "a/relu", "float32[2]")


def test_there_are_enough():
    assert len(ALL) >= 105


def test_names_are_unique():
    assert len(ARCHITECTURES) == len(ALL)


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_every_one_builds(one):
    model, inputs = one.build()
    assert not model.training
    assert inputs
    assert math.isfinite(rms(model.parameters()))


def test_models_are_the_same_every_time():
    (a, given), (b, again) = (ARCHITECTURES["Mixtral"].build() for _ in range(2))
    assert all(map(torch.equal, a.parameters(), b.parameters()))
    assert torch.equal(given["input_ids"], again["input_ids"])


def test_settled_weights_keep_the_scale():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.Linear(256, 64))
    for weight in model.parameters():
        torch.nn.init.zeros_(weight)
    settle(model)
    assert rms([model(torch.randn(50, 64))]) == pytest.approx(1.0, rel=0.2)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float32") for name in ("LSTM", "GAT", "NeRF", "PointNet", "RetNet")),
        ("VGG", "bfloat16"),
        ("VGG", "float16"),
    ],
)
def test_from_end_to_end(name, dtype):
    record = apart(name, dtype)
    assert record.dtype == dtype
    assert record.error == ""
    assert record.operators == sum(record.verdicts.values())
    assert record.share >= 0.95
    assert record.outputs == "PASS"
    assert record.unobserved == "same"
    assert list(unexplained(record)) == []


def test_one_that_takes_too_long_is_ended():
    assert apart("Llama", seconds=0.01).error == "not at its end after 0.01 seconds"


def test_one_whose_process_dies_leaves_a_record():
    found: list[Record] = []
    thread = threading.Thread(target=lambda: found.append(apart("Llama")))
    thread.start()
    while not (children := multiprocessing.active_children()):
        time.sleep(0.01)
    children[0].kill()
    thread.join()
    assert found[0].error == "its process ended with status -9"


def test_a_record_survives_its_line():
    record = replace(NOTHING, findings=(FINDING,), verdicts={"FAIL": 2}, scale=1.5)
    assert read(line(record)) == record


def test_what_has_changed_is_measured_again():
    stale = replace(NOTHING, key="of another version")
    assert command.valid([NOTHING], "float32") == {"LSTM": NOTHING}
    assert command.valid([NOTHING, stale], "float32") == {}
    assert command.valid([stale, NOTHING], "float32") == {"LSTM": NOTHING}


def test_a_record_is_of_one_dtype():
    narrow = replace(NOTHING, dtype="bfloat16", key=key("LSTM", "bfloat16"))
    assert command.valid([NOTHING, narrow], "bfloat16") == {"LSTM": narrow}
    assert command.valid([narrow, NOTHING], "float32") == {"LSTM": NOTHING}
    assert command.valid([replace(NOTHING, dtype="bfloat16")], "bfloat16") == {}


def test_narrow_models_are_everyday_ones():
    assert len(EVERYDAY) == len(set(EVERYDAY)) >= 60
    assert set(EVERYDAY) <= set(ARCHITECTURES)
    assert set(command.measured("float16")) == set(EVERYDAY)
    assert set(command.measured("float32")) == set(ARCHITECTURES)


def test_the_page_hides_nothing():
    failing = replace(NOTHING, operators=2, verdicts={"FAIL": 2}, findings=(FINDING,))
    broken = replace(NOTHING, name="GAT", group="graph", error="Oops: <b> | it died")
    page = document([failing, broken], ["ViT"])
    assert "Not measured yet: ViT." in page
    assert "1 of 2 architectures run from end to end" in page
    assert "Oops: \\<b> \\| it died" in page
    assert "### Not explained" in page
    assert "`aten.relu` FAIL" in page


def test_a_part_of_the_page_leaves_the_others():
    narrow = replace(NOTHING, dtype="bfloat16", operators=2, workarounds={"product_dtype": 2})
    wide, first = document([NOTHING]), document([narrow], ["ViT"], "bfloat16")
    assert "| `product_dtype` | 2 | matrix products" in first
    assert "workarounds do right" not in wide
    page = replaced(replaced(wide, first), document([], ["GAT"]))
    assert page.index("# Models\n") < page.index("# Models in bfloat16\n")
    assert page.count("# Models in bfloat16\n") == 1
    assert "Not measured yet: GAT." in page
    assert "Not measured yet: ViT." in page
    assert "| LSTM | 2 |" in page
    assert "| LSTM | 2 |" not in replaced(page, document([], [], "bfloat16"))


def test_a_page_of_what_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "KEPT", tmp_path / "zoo.jsonl")
    narrow = replace(NOTHING, dtype="float16", key=key("LSTM", "float16"), outputs="FAIL")
    command.KEPT.write_text(f"{line(replace(NOTHING, outputs='PASS'))}\n{line(narrow)}\n")
    page = tmp_path / "page.md"
    assert command.main(["--kept", "--out", str(page)]) == 0
    assert command.main(["--kept", "--dtype", "float16", "--out", str(page)]) == 1
    assert page.read_text().count("| LSTM |") == 2
    assert page.read_text().count("Not measured yet: ") == 2


def test_a_name_that_is_unknown(capsys):
    with pytest.raises(SystemExit):
        command.main(["Llamma"])
    assert "no architecture is called Llamma" in capsys.readouterr().err


def test_explanations_are_distinct():
    assert len({explanation.title for explanation in EXPLANATIONS}) == len(EXPLANATIONS)


def test_workarounds_that_are_named_exist():
    named = re.findall(r"workarounds=\['(\w+)'\]", " ".join(e.text for e in EXPLANATIONS))
    assert len(choose(named)) >= 3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("explanation", EXPLANATIONS, ids=lambda explanation: explanation.title)
def test_tvm_alone_shows_it(explanation):
    assert eval(explanation.repro, {"torch": torch, "check": check}) != ""


@pytest.mark.filterwarnings("ignore")
def test_tvm_alone_is_right_where_it_is():
    assert check(lambda x: x * -0.5, torch.randn(4)) == ""
