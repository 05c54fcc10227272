"""All of them, by name."""

from __future__ import annotations

from benchmarks.zoo.architecture import Architecture
from benchmarks.zoo.decoders import DECODERS
from benchmarks.zoo.encoders import ENCODERS, PAIRS
from benchmarks.zoo.mixed import AUDIO, MULTIMODAL, SERIES
from benchmarks.zoo.vision import VISION
from benchmarks.zoo.written import WRITTEN

ALL: tuple[Architecture, ...] = (
    *DECODERS,
    *ENCODERS,
    *PAIRS,
    *VISION,
    *AUDIO,
    *MULTIMODAL,
    *SERIES,
    *WRITTEN,
)

ARCHITECTURES: dict[str, Architecture] = {
    one.name: one for one in sorted(ALL, key=lambda one: one.group)
}
