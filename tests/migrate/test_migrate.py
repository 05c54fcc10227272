"""Growing the safe set, and finding what breaks a model, against models that only say right or
wrong."""

from __future__ import annotations

import itertools
import math

import pytest

from tapml_nb.migrate import BREAKS, Answer, Probes, localize, migrate

OPS = [f"op{k}" for k in range(300)]


def breaking(*sets, failures=()):
    """Probes of a model that breaks as soon as one of these sets is on the target."""
    bad = [frozenset(s) for s in sets]

    def check(ops):
        lost = {op: "it crashed" for op in ops if op in failures}
        moved = ops - lost.keys()
        return Answer(not any(s <= moved for s in bad), lost)

    return Probes(check)


class TestProbes:
    def test_a_question_is_asked_once(self):
        probes = breaking({"op1"})
        assert not probes(["op1", "op2"]).ok
        assert not probes(["op2", "op1"]).ok
        assert probes([]).ok
        assert len(probes.journal) == 1


class TestMigration:
    @pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 300])
    def test_an_all_good_model_moves_whole_in_few_checks(self, n):
        probes = breaking()
        growth = migrate(OPS[:n], probes)
        assert growth.safe == OPS[:n]
        assert growth.quarantined == {}
        assert len(probes.journal) <= 3 + math.log2(n)

    def test_nothing_to_move(self):
        assert migrate([], breaking()).safe == []

    def test_three_faults_are_exactly_those_that_stay(self):
        faults = ["op7", "op150", "op299"]
        growth = migrate(OPS, breaking(*([f] for f in faults)))
        assert growth.quarantined == dict.fromkeys(faults, BREAKS)
        assert growth.safe == [op for op in OPS if op not in faults]

    def test_of_two_that_break_together_the_later_stays(self):
        growth = migrate(OPS, breaking({"op3", "op200"}))
        assert list(growth.quarantined) == ["op200"]

    def test_a_failure_is_quarantined_with_its_reason_and_nothing_else(self):
        probes = breaking(failures={"op5", "op250"})
        growth = migrate(OPS, probes)
        assert growth.quarantined == {"op5": "it crashed", "op250": "it crashed"}
        assert len(growth.safe) == 298
        assert len(probes.journal) <= 4

    def test_a_failure_beside_a_fault(self):
        growth = migrate(OPS[:2], breaking({"op1"}, failures={"op0"}))
        assert growth.quarantined == {"op0": "it crashed", "op1": BREAKS}

    def test_each_step_tells_the_safe_set(self):
        seen = []
        migrate(OPS[:16], breaking({"op9"}), lambda step, safe: seen.append((step, list(safe))))
        assert all("op9" not in safe for _, safe in seen)
        assert [step.offloaded for step, _ in seen] == [len(safe) for _, safe in seen]
        assert seen[-1][1] == [op for op in OPS[:16] if op != "op9"]


class TestLocalization:
    def test_nothing_breaks(self):
        probes = breaking()
        assert localize(OPS, [], probes) == []
        assert len(probes.journal) == 1

    def test_suspects_come_first_and_cheaply(self):
        probes = breaking({"op3"}, {"op99"})
        assert localize(OPS, ["op3", "op50", "op99"], probes) == [{"op3"}, {"op99"}]
        assert len(probes.journal) == 5

    @pytest.mark.parametrize("pair", [("op0", "op1"), ("op0", "op299"), ("op149", "op150")])
    def test_a_pair_that_breaks_only_together(self, pair):
        probes = breaking(set(pair))
        assert localize(OPS, [], probes) == [set(pair)]
        assert len(probes.journal) <= 4 * math.log2(len(OPS)) + 10

    def test_every_pair_of_a_small_model(self):
        for pair in itertools.combinations(OPS[:9], 2):
            assert localize(OPS[:9], [], breaking(set(pair))) == [set(pair)]

    def test_three_together(self):
        assert localize(OPS, [], breaking({"op5", "op77", "op240"})) == [{"op5", "op77", "op240"}]

    def test_several_at_once(self):
        found = localize(OPS, ["op8"], breaking({"op8"}, {"op20", "op21"}, {"op200"}))
        assert found == [{"op8"}, {"op200"}, {"op20", "op21"}]

    def test_failures_are_culprits(self):
        probes = breaking({"op9"}, failures={"op4"})
        assert localize(OPS[:20], [], probes) == [{"op4"}, {"op9"}]

    def test_where_more_makes_it_right_again_the_answer_still_breaks(self):
        def check(ops):  # op2 is wrong unless op5 undoes it; and op1 with op2 is always wrong
            wrong = "op2" in ops and ("op5" not in ops or "op1" in ops)
            return Answer(not wrong)

        (found,) = localize(OPS[:8], [], Probes(check))
        assert not check(found).ok
