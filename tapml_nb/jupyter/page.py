"""The notebook's own page as the target: it starts what a page behind the link does by itself."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import anywidget
import traitlets

from tapml_nb.targets.server.pages import STATIC


class TargetPage(anywidget.AnyWidget):
    """Makes the page that shows it the device of a session.

    The page connects to the session's target server by itself, so kernels run also while a cell
    blocks; where the server is on another machine, through a route of the Jupyter server.

    Args:
        link: the session's.
    """

    _esm = STATIC / "page.js"
    _css = Path(__file__).parents[1] / "widgets" / "static" / "style.css"
    _port = traitlets.Int().tag(sync=True)
    _key = traitlets.Unicode().tag(sync=True)
    link = traitlets.Unicode(help="the page to open in another browser").tag(sync=True)

    def __init__(self, link: str) -> None:
        there = urlsplit(link)
        super().__init__(_port=there.port, _key=there.path.strip("/"), link=link)

    def __repr__(self) -> str:
        return f"<TargetPage: open {self.link} in a browser>"
