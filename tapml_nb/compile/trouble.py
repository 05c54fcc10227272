"""What keeps a compiler from its work and says nothing about the code that it was given."""

from __future__ import annotations

import errno
import os


class CompilerTrouble(RuntimeError):
    """The compiler could not do its work, for a reason that is no kernel's.

    A full disk, a process that was killed or stopped from outside, a tool that is gone.  Nothing
    of it is kept: the kernels in hand are compiled again by the next run.

    Example:
        >>> try:
        ...     report = session.run()
        ... except tapml.CompilerTrouble:
        ...     report = session.report  # what was judged until then
    """


class CompilerInterrupted(Exception):
    """What the compiler was at was broken off by :meth:`Compiler.interrupt
    <tapml_nb.compile.compiler.Compiler.interrupt>`."""


_WORDS = (
    *(
        os.strerror(number).lower()
        for number in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
            errno.EIO,
            errno.ENOMEM,
            errno.EROFS,
            errno.EACCES,
            errno.EMFILE,
            errno.ENFILE,
            errno.ESTALE,
            errno.ETXTBSY,
        )
    ),
    "out of memory",
    "memory exhausted",
    "bad_alloc",
    "resource temporarily unavailable",
    "killed signal",
    "terminated signal",
    "command: killed",
)
"""What tools and TVM write when the machine fails them; no compiler says so of code."""


def trouble_in(message: str) -> bool:
    """Whether a tool's message speaks of the machine and not of the code."""
    text = message.lower()
    return any(words in text for words in _WORDS)


def in_words(error: OSError, path: object = None) -> str:
    """An error of the system, with the path it is about."""
    where = error.filename or path
    what = error.strerror or str(error)
    return f"{what}: {where}" if where else what
