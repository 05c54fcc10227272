"""Run a notebook headless: print its summaries; fail if a cell fails.

    python notebooks/run.py notebooks/quickstart.ipynb build/quickstart.html
    python notebooks/run.py --keep notebooks/*.ipynb

The first writes what came of it as a page; the second into the notebooks themselves, as they are
committed: what differs from run to run (times, folders for temporary files, random names) is left
out, and so are widgets, which need a kernel.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

_SECONDS_PER_CELL = 300
_VARIES = (
    (re.compile(r"\b\d+(?:\.\d+)? (ms|s)\b"), r"… \1"),
    (re.compile(r"(?<![\w.])/(?:[\w.-]+/)*tmp[\w]{8}/"), ""),
)
_LAST = "import time; time.sleep(4)"
"""What stands under a workbench is drawn anew when nothing has happened for a while."""

_SESSION = re.compile(r"(?<=\btapml-snapshot-)[0-9a-f]{6,}|(?<=\btapml-live-)[0-9a-f]{6,}")
"""A session's id, in names of classes."""

_WIDGET = "application/vnd.jupyter.widget-view+json"


def executed(source: Path) -> nbformat.NotebookNode | None:
    """The notebook with its outputs; None if a cell failed, which is said."""
    notebook = nbformat.read(source, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(_LAST))
    client = NotebookClient(
        notebook,
        timeout=_SECONDS_PER_CELL,
        record_timing=False,
        resources={"metadata": {"path": str(source.parent)}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        print(f"{source}: a cell failed\n{error}", file=sys.stderr)
        return None
    notebook.cells.pop()
    return notebook


def settle(notebook: nbformat.NotebookNode) -> None:
    """Leave out what differs from run to run, and what needs a kernel."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    sessions: dict[str, str] = {}

    def kept(session: re.Match[str]) -> str:
        return sessions.setdefault(session[0], f"kept{len(sessions) + 1}")

    def steady(text: str) -> str:
        for pattern, instead in _VARIES:
            text = pattern.sub(instead, text)
        return _SESSION.sub(kept, text)

    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = steady(output.text)
            for kind, data in output.get("data", {}).items():
                if isinstance(data, str) and not kind.startswith("image/"):
                    output.data[kind] = steady(data)
            output.get("data", {}).pop(_WIDGET, None)


def _say(notebook: nbformat.NotebookNode) -> None:
    """Print what the cells tagged ``summary`` say."""
    for cell in notebook.cells:
        if "summary" in cell.metadata.get("tags", []):
            print("\n".join(_text(output) for output in cell.outputs if _text(output)), end="\n\n")


def _text(output: nbformat.NotebookNode) -> str:
    if output.output_type == "stream":
        return str(output.text).rstrip()
    return str(output.get("data", {}).get("text/plain", "")).rstrip()


def _write_page(notebook: nbformat.NotebookNode, page: Path) -> None:
    html, _ = HTMLExporter().from_notebook_node(notebook)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(html, encoding="utf-8")


def main() -> int:
    """The command line; 1 if a cell failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="a notebook and a page; or notebooks")
    parser.add_argument("--keep", action="store_true", help="write outputs into the notebooks")
    asked = parser.parse_args()
    if not asked.keep and len(asked.files) != 2:
        parser.error("one notebook and one page, please, or --keep")
    for source in asked.files if asked.keep else asked.files[:1]:
        begin = time.perf_counter()
        notebook = executed(source)
        if notebook is None:
            return 1
        seconds = time.perf_counter() - begin
        _say(notebook)
        page = source if asked.keep else asked.files[1]
        if asked.keep:
            settle(notebook)
            nbformat.write(notebook, source)
        else:
            _write_page(notebook, page)
        print(f"{source} ran in {seconds:.0f} s; {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
