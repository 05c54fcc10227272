"""How verdicts look everywhere: colours that people with any colour vision tell apart, symbols.

The colours are Okabe and Ito's ("Color Universal Design", 2008), and greys.
"""

from __future__ import annotations

from tapml_nb.judge.verdict import Verdict

VERDICT_COLOURS: dict[Verdict, str] = {
    Verdict.PASS: "#009e73",
    Verdict.FAIL: "#d55e00",
    Verdict.NONFINITE: "#cc79a7",
    Verdict.NONDETERMINISTIC: "#e69f00",
    Verdict.COMPILE_ERROR: "#8a7a3c",
    Verdict.CRASH: "#3b3b3b",
    Verdict.TIMEOUT: "#5a4a78",
    Verdict.UNSUPPORTED: "#b3aa7c",
    Verdict.SKIPPED: "#c4c4c4",
    Verdict.UNKNOWN: "#ffffff",
}

# Every one of them is in DejaVu Sans, with which Matplotlib draws.
VERDICT_SYMBOLS: dict[Verdict, str] = {
    Verdict.PASS: "✓",
    Verdict.FAIL: "✗",
    Verdict.NONFINITE: "∞",
    Verdict.NONDETERMINISTIC: "≈",
    Verdict.COMPILE_ERROR: "C",
    Verdict.CRASH: "‼",
    Verdict.TIMEOUT: "◷",
    Verdict.UNSUPPORTED: "∅",
    Verdict.SKIPPED: "-",
    Verdict.UNKNOWN: "?",
}
