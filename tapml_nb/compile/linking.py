"""Kernels in files that a target can load."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tapml_nb.compile.cache import Compiled, read_entry, write_file
from tapml_nb.compile.kernel import Kernel
from tapml_nb.compile.sources import SOURCE_KINDS, SourcePackage
from tapml_nb.compile.toolchain import Run, ToolchainError, link_shared, machine_of
from tapml_nb.compile.trouble import CompilerTrouble, in_words


class KernelsLost(Exception):
    """Kernels are not in the cache any more as they were compiled.

    Attributes:
        keys: theirs.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__(f"{len(keys)} kernels")
        self.keys = keys


def link(
    kernels: Sequence[Compiled], library: Path, target: Any, run: Run
) -> list[tuple[Path, list[Kernel]]]:
    """Put kernels that launch something together, as far as that can be done.

    Args:
        kernels: the kernels.
        library: the file to write.
        target: what they are compiled for.
        run: runs the linker.

    Returns:
        Files that the target can load, each with the kernels in it.

    Raises:
        KernelsLost: if some are not in the cache as they were; to be compiled again.
        ToolchainError: if the linker rejects them.
        CompilerTrouble: if it cannot work, and again.
        CompilerInterrupted: if it was.
    """
    codes = [(kernel.kernel, kernel.code) for kernel in kernels if kernel.code]
    if not codes:
        return []
    for again in (False, True):
        try:
            return _link(codes, library, target, run)
        except (ToolchainError, CompilerTrouble, OSError, ValueError) as error:
            lost = [k.kernel.key for k in kernels if read_entry(k.folder, k.kernel.key) is None]
            if lost:
                raise KernelsLost(lost) from None
            if isinstance(error, OSError):
                where = in_words(error, library)
                raise CompilerTrouble(f"kernels cannot be linked: {where}") from None
            if again or isinstance(error, ToolchainError):
                raise
    raise AssertionError("unreachable: the second attempt returns or raises")


def _link(
    codes: Sequence[tuple[Kernel, Path]], library: Path, target: Any, run: Run
) -> list[tuple[Path, list[Kernel]]]:
    library.parent.mkdir(parents=True, exist_ok=True)
    if target.kind.name == "cuda":  # whose libraries hold code for two machines
        linked = []
        for number, (kernel, code) in enumerate(codes):
            file = library.with_stem(f"{library.stem}-{number}")
            file.unlink(missing_ok=True)
            linked.append((Path(shutil.copyfile(code, file)), [kernel]))
        return linked
    if target.kind.name in SOURCE_KINDS:
        packages = [SourcePackage.parse(code.read_text(encoding="utf-8")) for _, code in codes]
        write_file(library, SourcePackage.merged(packages).dump().encode())
    else:
        link_shared([code for _, code in codes], library, machine_of(target), run)
    return [(library, [kernel for kernel, _ in codes])]
