"""The documentation as a site: ``make docs``.  Pages are plain Markdown; only the reference is made
of docstrings.  Nothing is fetched, when it is built or when it is read.
"""

from __future__ import annotations

import tapml_nb

project = "tapml_nb"
author = "the tapml_nb authors"
copyright = author
version = release = tapml_nb.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns: list[str] = []

html_theme = "furo"
html_title = f"tapml_nb {release.partition('+')[0]}"
html_copy_source = False
html_show_sphinx = False

myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
