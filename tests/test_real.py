"""Configurations of real size: their shapes are real, and small ones go through from end to end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.real import __main__ as command
from benchmarks.real.apart import apart
from benchmarks.real.configurations import CONFIGURATIONS, DECODERS
from benchmarks.real.faults import FAULTS
from benchmarks.real.measure import measure, plain_pass
from benchmarks.real.models import Place
from benchmarks.real.page import page
from benchmarks.real.quantized import GROUP, pack, unpack
from benchmarks.real.records import Planted, Record, due, kept, key, line, read
from benchmarks.real.unet import UNet

SMALL = Place("cpu", torch.float32, small=True)
NOTHING = Record("ViT-L/16", "cpu", "float32", "small", "of a version")
FOUND = Planted("a factor", "fc/linear", "FAIL", True, (), 0.5, "scaled")
DONE = replace(
    NOTHING,
    hardware="an abacus",
    seconds={"forward": 1.0, "kernels": 1.0, "second run": 6.0},
    sent_mb=(2.5, 0.0),
    verdicts={"PASS": 3},
    causes=("a/b FAIL: <wrong> | *so*",),
    planted=(FOUND,),
)


@pytest.mark.parametrize(
    ("name", "parameters"),
    {
        "Llama-3.2-1B": 1_235_814_400,
        "Qwen3-0.6B": 596_049_920,
        "Qwen3-1.7B": 1_720_574_976,
        "Gemma-3-1B": 999_885_952,
        "Phi-4-mini": 3_836_021_760,
        "Mistral-7B": 7_248_023_552,
        "Llama-3-8B": 8_030_261_248,
        "OLMoE-1B-7B": 6_919_161_856,
    }.items(),
)
def test_language_models_are_as_large_as_those_that_are_published(name, parameters):
    model = DECODERS[name].shaped(Place("meta", torch.bfloat16, small=False))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_the_unet_is_as_large_as_the_one_that_is_published():
    with torch.device("meta"):
        model = UNet((320, 640, 1280, 1280), 768, groups=32)
    assert sum(p.numel() for p in model.parameters()) == 859_520_964


@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if "decoding" not in name])
def test_activations_have_a_scale_near_one(name):
    one = CONFIGURATIONS[name]
    case = one.make(replace(SMALL, dtype=one.dtype or torch.float32))
    (step,) = case.steps
    with torch.no_grad():
        result = case.program(*step).float()
    assert 0.05 < result.std() < 20


@pytest.mark.parametrize("weight", [torch.randn(6, 64), torch.full((2, GROUP), -3.0)])
def test_what_is_packed_comes_back_to_half_a_step(weight):
    words, scales = pack(weight)
    assert words.dtype == torch.int32
    assert words.shape == (len(weight), weight.shape[1] // 8)
    steps = scales.float().repeat_interleave(GROUP, 1)
    assert ((unpack(words, scales).float() - weight).abs() <= 0.51 * steps).all()


def test_a_plain_pass_leaves_the_cache_as_it_was():
    case = CONFIGURATIONS["Qwen3-0.6B decoding"].make(SMALL)
    assert [step[0].shape[1] for step in case.steps] == [32, 1, 1]
    before = {name: buffer.clone() for name, buffer in case.program.named_buffers()}
    run = plain_pass(case)
    run()
    run()  # the cache has room for one
    assert all(torch.equal(before[name], buffer) for name, buffer in case.program.named_buffers())


def test_from_end_to_end_with_faults():
    *partial, last = measure(replace(NOTHING, name="Llama-3.2-1B", dtype="bfloat16"))
    assert last.error == ""
    assert [one.fault for one in last.planted] == [fault.name for fault in FAULTS]
    assert [one for one in last.planted if not one.found] == []
    assert set(last.verdicts) == {"PASS", "SKIPPED"}
    assert (last.outputs, last.unobserved) == ("PASS", "same")
    assert last.migrated == last.moved > last.verdicts["PASS"]
    assert last.weights_mb > 0.1
    assert last.host_mb > last.weights_mb
    assert all(record.error for record in partial)
    assert partial[0].error == "no further than build"


@pytest.mark.parametrize("name", ["OLMoE-1B-7B decoding", "Llama-3-8B q4f16"])
def test_from_end_to_end(name):
    last = list(measure(replace(NOTHING, name=name)))[-1]
    assert last.error == ""
    assert set(last.verdicts) == {"PASS", "SKIPPED"}
    assert (last.outputs, last.unobserved) == ("PASS", "same")
    assert last.plain > 0


def test_one_that_fails_costs_a_row_that_says_why():
    (record,) = apart(replace(NOTHING, device="nowhere"), seconds=300)
    assert "nowhere" in record.error


def test_a_record_survives_its_line():
    assert read(line(DONE)) == DONE


def test_of_each_run_the_last_line_counts(tmp_path):
    path = tmp_path / "real.jsonl"
    assert kept(path) == []
    other = replace(NOTHING, dtype="float16")
    path.write_text("".join(f"{line(r)}\n" for r in (NOTHING, other, DONE)))
    assert kept(path) == [DONE, other]


def test_what_this_version_has_measured_is_not_measured_again():
    other, stale = replace(NOTHING, dtype="float16"), replace(DONE, key="of another version")
    assert due([], [NOTHING, other]) == [NOTHING, other]
    assert due([DONE], [NOTHING, other]) == [other]
    assert due([stale], [NOTHING]) == [NOTHING]
    failed = replace(DONE, error="it broke")
    assert due([failed], [NOTHING, other]) == [other, NOTHING]


def test_the_command_goes_on_where_it_was(tmp_path, capsys):
    out = tmp_path / "real.jsonl"
    arguments = ["ViT-L/16", "--device", "cpu", "--dtype", "float32", "--scale", "small"]
    assert command.main([*arguments, "--out", str(out)]) == 0
    (record,) = kept(out)
    assert record.key == key()
    assert record.error == ""
    assert "ViT-L/16: outputs PASS" in capsys.readouterr().out
    lines = out.read_text()
    assert command.main([*arguments, "--out", str(out)]) == 0
    assert out.read_text() == lines


def test_a_fault_that_is_not_found_is_no_success():
    assert command.good(DONE)
    assert not command.good(replace(DONE, error="it broke"))
    for wrong in (replace(FOUND, first=False), replace(FOUND, others=("act/gelu",))):
        assert not command.good(replace(DONE, planted=(FOUND, wrong)))


def test_the_page_says_all():
    failed = replace(NOTHING, name="Qwen3-0.6B", error="after build: OutOfMemoryError | 3 GB")
    missed = replace(FOUND, fault="a tail", first=False, others=("act/gelu",))
    full = replace(DONE, scale="full", device="cuda", dtype="bfloat16", planted=(FOUND, missed))
    text = page([DONE, failed, full])
    assert text.index("## Real shapes in bfloat16 (an abacus)") < text.index("## Small shapes")
    assert "6 s (3.0)" in text
    assert "2.5 MB | 0.0 MB" in text
    assert "**after build: OutOfMemoryError \\| 3 GB**" in text
    assert "a/b FAIL: \\<wrong> \\| \\*so\\*" in text
    assert "| ViT-L/16 | a factor | fc/linear | FAIL | yes | none | 0.5 s |" in text
    assert "| ViT-L/16 | a tail | fc/linear | FAIL | NO | act/gelu | 0.5 s |" in text


def test_configurations_that_are_gone_are_not_on_the_page():
    gone = replace(NOTHING, name="GPT-1")
    last = replace(NOTHING, name="Llama-3.2-1B")
    assert command.in_order([NOTHING, gone, last]) == [last, NOTHING]
