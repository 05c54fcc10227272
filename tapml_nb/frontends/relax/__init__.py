"""Relax: ``tvm.IRModule`` → :class:`RelaxProgram`."""

from tapml_nb.frontends.relax.program import RelaxProgram, import_relax

__all__ = ["RelaxProgram", "import_relax"]
