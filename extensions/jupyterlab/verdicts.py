"""Writes `src/bundle/verdicts.ts`, for pages without a kernel: how verdicts look and which is
worse, out of the Python that says so.

A test writes it again and compares.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from tapml_nb.report.protocol import verdicts  # noqa: E402

HEAD = """\
// Made by ../../verdicts.py of what `tapml_nb` says of verdicts: change that.

import type { VerdictInfo } from "../../../widgets/src/protocol";

export const VERDICTS: readonly VerdictInfo[] = [
"""


def text() -> str:
    """The whole file."""
    lines = []
    for verdict in verdicts():
        lines.append("  {")
        lines += [
            f"    {key}: {json.dumps(value, ensure_ascii=False)}," for key, value in verdict.items()
        ]
        lines.append("  },")
    return HEAD + "\n".join(lines) + "\n];\n"


if __name__ == "__main__":
    Path(*sys.argv[1:2] or [HERE / "src" / "bundle" / "verdicts.ts"]).write_text(text())
