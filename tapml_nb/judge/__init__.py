"""Judge: is the target's tensor an honest result, given how good the source's own is?"""

from tapml_nb.judge.floor import Floor, Reference, noise_floor, reference_of
from tapml_nb.judge.verdict import FAULTS, Judgement, Verdict, judge, worse

__all__ = [
    "FAULTS",
    "Floor",
    "Judgement",
    "Reference",
    "Verdict",
    "judge",
    "noise_floor",
    "reference_of",
    "worse",
]
