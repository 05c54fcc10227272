"""Run a notebook headless: print its summaries, write it as HTML, fail if a cell fails.

python notebooks/run.py notebooks/quickstart.ipynb build/quickstart.html
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

_SECONDS_PER_CELL = 300


def main(source: Path, page: Path) -> int:
    """Execute ``source``, print the text of cells tagged ``summary``, write ``page``."""
    notebook = nbformat.read(source, as_version=4)
    client = NotebookClient(
        notebook, timeout=_SECONDS_PER_CELL, resources={"metadata": {"path": str(source.parent)}}
    )
    begin = time.perf_counter()
    try:
        client.execute()
    except CellExecutionError as error:
        print(f"{source}: a cell failed\n{error}", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - begin
    for cell in notebook.cells:
        if "summary" in cell.metadata.get("tags", []):
            print("\n".join(_text(output) for output in cell.outputs if _text(output)), end="\n\n")
    html, _ = HTMLExporter().from_notebook_node(notebook)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(html, encoding="utf-8")
    print(f"{source} ran in {seconds:.0f} s; {page}")
    return 0


def _text(output: nbformat.NotebookNode) -> str:
    if output.output_type == "stream":
        return str(output.text).rstrip()
    return str(output.get("data", {}).get("text/plain", "")).rstrip()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
