"""What a target holds of a session's tensors, what a kernel takes there beside them, and which of
them go where it may not take so much.

What was not used for longest goes first.  Who knew when each is used next could choose better, and
a graph would say so; but a session is asked for operators in any order, by several runs, and what
goes too early costs its way there once more, and nothing else.  In one run through a model both
choose alike: a weight is used once, and a value soon after it was made or not at all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tapml_nb.array_api import Array, dtype_of
from tapml_nb.compile.kernel import BufferSpec, Kernel
from tapml_nb.targets.wire.errors import BeyondMemory

NOTHING = BufferSpec((0,), "uint8")


def spec_of(array: Array) -> BufferSpec:
    """What a tensor is on a target."""
    return BufferSpec(tuple(array.shape), dtype_of(array).name)


@dataclass(frozen=True)
class Footprint:
    """What a kernel takes in a run, in bytes, but for what it allocates for itself in a launch.

    Attributes:
        outputs: what it leaves.
        inputs, constants: of what it is given.
        results: of the buffers of its own that its outputs lie in.
        own: of all buffers of its own.
    """

    outputs: tuple[BufferSpec, ...] = ()
    inputs: int = 0
    constants: int = 0
    results: int = 0
    own: int = 0

    @classmethod
    def of(cls, kernel: Kernel) -> Footprint:
        """That of a kernel whose sizes are known."""
        sizes = [buffer.nbytes for buffer in kernel.buffers]
        given = kernel.params + len(kernel.constants)
        own = {n for n in range(given, len(sizes)) if kernel.root(n) == n}
        return cls(
            tuple(kernel.buffers[n] for n in kernel.results),
            sum(sizes[: kernel.params]),
            sum(sizes[kernel.params : given]),
            sum(sizes[n] for n in own & set(map(kernel.root, kernel.results))),
            sum(sizes[n] for n in own),
        )

    def of_call(self, repeats: int, guard: bool) -> int:
        """Bytes beside what is there while a kernel is called: copies of its inputs, by which it is
        watched; the results of every run; and one more run, for where they differ."""
        guarded = self.inputs + self.constants + self.results if guard else 0
        return self.inputs + repeats * self.results + self.own + guarded


class Residency(Mapping[str, BufferSpec]):
    """The tensors on a target by their keys, in the order of their use.

    Attributes:
        nbytes: bytes of all of them; what lies in the same memory counts several times.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._tensors: OrderedDict[str, BufferSpec] = OrderedDict()
        self._pinned: set[str] = set()

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, key: object) -> bool:
        return key in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __getitem__(self, key: str) -> BufferSpec:
        return self._tensors[key]

    def note(self, key: str, spec: BufferSpec, *, pinned: bool = False) -> None:
        """A tensor is there now; one that is ``pinned`` stays until it is discarded."""
        self.discard([key])
        self._tensors[key] = spec
        self.nbytes += spec.nbytes
        if pinned:
            self._pinned.add(key)

    def discard(self, keys: Iterable[str]) -> None:
        """Tensors are not there any more, or never were."""
        for key in keys:
            if spec := self._tensors.pop(key, None):
                self.nbytes -= spec.nbytes
                self._pinned.discard(key)

    def use(self, keys: Iterable[str]) -> None:
        """Tensors, if they are there, are used now."""
        for key in keys:
            if key in self._tensors:
                self._tensors.move_to_end(key)

    def spare(self, keys: Iterable[str]) -> None:
        """Tensors, if they are there, are the first to go from now on."""
        for key in keys:
            if key in self._tensors:
                self._tensors.move_to_end(key, last=False)

    def all_but(self, keys: Collection[str]) -> Iterator[str]:
        """All tensors that may go but these, in the order in which they would."""
        staying = self._pinned.union(keys)
        return (key for key in self if key not in staying)

    def pinned_beside(self, keys: Collection[str]) -> int:
        """Bytes of what is pinned and none of these."""
        return sum(self[key].nbytes for key in self._pinned if key not in keys)

    def excess(self, bound: int, more: int, needed: Collection[str], margin: int = 0) -> list[str]:
        """What has to go so that so many bytes have room beside the rest, which holds all that is
        needed; and a margin as well, as far as there is anything that may go.

        Raises:
            BeyondMemory: if nothing is left that might go.
        """
        going: list[str] = []
        total = self.nbytes + more
        if total > bound - margin:
            for key in self.all_but(needed):
                if total <= bound - margin:
                    break
                going.append(key)
                total -= self[key].nbytes
        if total > bound:
            raise BeyondMemory(total, bound)
        return going


class Footprints:
    """The footprints of kernels at the shapes of their calls, each found out once."""

    def __init__(self) -> None:
        self._kernels: dict[str, Kernel] = {}
        self._known: dict[Hashable, Footprint] = {}

    def know(self, kernels: Iterable[Kernel]) -> None:
        """Kernels may be called from now on."""
        self._kernels.update((kernel.key, kernel) for kernel in kernels)

    def constants(self, kernel: str) -> Sequence[str]:
        """Keys of what a kernel reads beside its inputs."""
        known = self._kernels.get(kernel)
        return known.constants if known else ()

    def at(self, kernel: str, inputs: Sequence[BufferSpec], numbers: Sequence[int]) -> Footprint:
        """What a kernel takes, given such inputs; nothing where a target refuses that."""
        plan = self._kernels.get(kernel)
        if plan is None or len(inputs) != plan.params:
            return Footprint()
        shapes = tuple(spec.shape for spec in inputs) if plan.is_open else ()
        call = (kernel, shapes, tuple(numbers))
        if call not in self._known:
            try:
                self._known[call] = Footprint.of(plan.at(shapes, numbers))
            except (LookupError, ValueError):  # shapes that it is not for
                return Footprint()
        return self._known[call]
