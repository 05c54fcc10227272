"""What both sides of a target share: the same there as here, or a refusal."""

import json
from dataclasses import asdict

import pytest

from tapml_nb.targets.wire.calls import (
    CallRequest,
    CallResult,
    ChainCall,
    ChainRequest,
    ChainResult,
    to_json,
)
from tapml_nb.targets.wire.envelope import Garbled
from tapml_nb.targets.wire.recorder import ExitReport, Record, Recorder, path_of, read_record

CALL = CallRequest("k", ("x",), ("y", "z"), ((), ("r",)), 1.5, 3, (7,), True)
CHAIN = ChainRequest(
    (ChainCall("k", ("x",), ("y",), (7,)), ChainCall(None, ("y",), ("v",))),
    ("y",),
    2,
    True,
    (("r", "s"),),
)
RESULT = CallResult((1.0, 2.0), (True, False), (-1, 0), ("x",), True, ("beyond",), ("note",))


def sent(content):
    """As it arrives."""
    whole = asdict(content) if isinstance(content, ExitReport) else to_json(content)
    return json.loads(json.dumps(whole))


def test_what_is_sent_arrives():
    assert CallRequest.from_json(sent(CALL)) == CALL
    assert ChainRequest.from_json(sent(CHAIN)) == CHAIN
    assert CallResult.from_json(sent(RESULT), outputs=2) == RESULT
    result = ChainResult(("x",), (0, -1))
    assert ChainResult.from_json(sent(result), outputs=2) == result
    report = ExitReport(11, 0, "log", Record("launch", 0.5, "k"), 100)
    assert ExitReport.from_json(sent(report)) == report


def test_a_request_with_a_field_more_would_mean_something_else():
    for request in (CALL, CHAIN):
        with pytest.raises(TypeError, match="more"):
            type(request).from_json(sent(request) | {"more": 1})


def test_a_result_with_a_field_more_means_the_same():
    assert CallResult.from_json(sent(RESULT) | {"more": 1}, outputs=2) == RESULT


@pytest.mark.parametrize(
    ("answer", "outputs"),
    [
        ({k: v for k, v in sent(RESULT).items() if k != "equals"}, 2),
        (sent(RESULT), 3),
        ([], 2),
        (None, 2),
    ],
)
def test_what_is_no_result_is_garbled(answer, outputs):
    with pytest.raises(Garbled):
        CallResult.from_json(answer, outputs)


@pytest.mark.parametrize(
    "answer", [{"overwritten": []}, {"overwritten": [], "equals": [0, -1]}, [], None]
)
def test_what_is_no_result_of_a_chain_is_garbled(answer):
    with pytest.raises(Garbled):
        ChainResult.from_json(answer, outputs=1)


def test_a_report_that_makes_no_sense_is_empty():
    assert ExitReport.from_json({"signal": "?", "record": 3}) == ExitReport()


def test_what_a_process_is_at_stands_in_its_file(tmp_path):
    path = path_of(tmp_path, 1)
    assert read_record(path) == Record()
    recorder = Recorder(path)
    assert not recorder.late(0)
    with recorder.during("launch", "k"), recorder.within(0.0):
        assert read_record(path).running == "k"
        assert recorder.late(0)
        assert not recorder.late(60)
    assert not recorder.late(0)
    assert (read_record(path).doing, read_record(path).kernel) == ("", "k")
    recorder.close()
