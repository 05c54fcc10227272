"""Inputs of the zoo's models: token ids, padded batches, pictures, sounds."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.zoo.architecture import Inputs

VOCABULARY = 500

Make = Callable[[], Inputs]


def ids(batch: int, length: int) -> torch.Tensor:
    """Token ids, without those that mean padding, beginning and end."""
    return torch.randint(3, VOCABULARY, (batch, length))


def tokens(length: int = 16) -> Make:
    """A sentence."""
    return lambda: {"input_ids": ids(1, length)}


def padded(length: int = 16) -> Make:
    """Two sentences, the second of which is shorter and padded."""

    def make() -> Inputs:
        mask = torch.ones(2, length, dtype=torch.int64)
        mask[1, length * 2 // 3 :] = 0
        return {"input_ids": ids(2, length), "attention_mask": mask}

    return make


def translation(source: int = 12, target: int = 8) -> Make:
    """A sentence, and the beginning of its translation."""
    return lambda: {"input_ids": ids(1, source), "decoder_input_ids": ids(1, target)}


def masked_translation(source: int = 12, target: int = 8) -> Make:
    """The same with the encoder's mask, which some models need to be exported."""
    mask = torch.ones(1, source, dtype=torch.int64)
    return lambda: {**translation(source, target)(), "attention_mask": mask}


def picture(size: int = 32, name: str = "pixel_values") -> Make:
    """A picture, normalised."""
    return lambda: {name: torch.randn(1, 3, size, size)}


def video(frames: int, size: int) -> Make:
    """A few frames."""
    return lambda: {"pixel_values": torch.randn(1, frames, 3, size, size)}


def captioned(size: int = 32, length: int = 10) -> Make:
    """A picture, and a sentence about it."""
    return lambda: {"input_ids": ids(1, length), "pixel_values": torch.randn(1, 3, size, size)}


def sound(samples: int = 1600, name: str = "input_values") -> Make:
    """A tenth of a second of noise at 16 kHz."""
    return lambda: {name: torch.randn(1, samples)}


def tensors(**shapes: tuple[int, ...]) -> Make:
    """Normal noise of these shapes."""
    return lambda: {name: torch.randn(shape) for name, shape in shapes.items()}
