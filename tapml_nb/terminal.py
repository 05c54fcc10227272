"""What may be shown in a terminal.

Names come from models and bundles, messages from compilers: both may hold anything.  A control
character among them would steer the terminal (colours, the title, the clipboard), a line break
would begin a line that seems to be ours, and an override of the writing direction would show a
text in another order than it has.
"""

from __future__ import annotations


def printable(text: str) -> str:
    r"""The text on one line: what is no visible character stands there as Python writes it.

    >>> printable("layer\x1b[31m\n0")
    'layer\\x1b[31m\\n0'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
