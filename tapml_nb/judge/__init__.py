"""Judge: is the target's tensor an honest result, given how good the source's own is?"""

from tapml_nb.judge.floor import Reference, reference_of
from tapml_nb.judge.verdict import Verdict, judge

__all__ = ["Reference", "Verdict", "judge", "reference_of"]
