"""What trained models expect: a sound like speech, pictures of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

RATE = 16_000
"""Samples a second."""

CHUNK, CONTEXT = 512, 64
"""Samples that a voice detector hears at a time, and of those before."""

SIZES = {
    "ch_PP-OCRv4_det_infer": (96, 320),
    "ch_PP-OCRv4_rec_infer": (48, 320),
    "ch_ppocr_mobile_v2.0_cls_infer": (48, 192),
    "common": (64, 160),
    "common_old": (64, 160),
    "common_det": (416, 416),
}
"""Height and width of the picture that an OCR model is given, by file."""

Inputs = dict[str, np.ndarray]


def inputs_of(path: Path) -> list[Inputs]:
    """Inputs for a file, by name, step by step."""
    declared = {value.name: value for value in declared_inputs(path)}
    if "sr" in declared or {"state", "h"} & declared.keys():
        return voice(path, declared)
    ((name, value),) = declared.items()
    channels = value.type.tensor_type.shape.dim[1].dim_value
    return [{name: picture(*SIZES.get(path.stem, (64, 160)), channels)}]


def declared_inputs(path: Path) -> list[Any]:
    """What a model takes: its inputs without those that are weights."""
    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def voice(path: Path, declared: Sequence[str] | dict[str, Any]) -> list[Inputs]:
    """Chunks of speech for a voice detector, with what it remembers of those before.

    One that takes a whole sequence gets all of them in one step; else there are two steps, in the
    middle of a syllable and in a pause.
    """
    chunks = chunked(speech(1.0))
    if "h" in declared:
        state = np.zeros((1, 1, 128), np.float32)
        return [{"input": chunks, "h": state, "c": state}]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    state = np.zeros((2, 1, 128), np.float32)
    steps = []
    for chunk in chunks:
        given = {"input": chunk[None], "state": state, "sr": np.array(RATE, np.int64)}
        steps.append({name: given[name] for name in declared})
        state = session.run(None, steps[-1])[1]
    energies = [float(np.square(chunk).mean()) for chunk in chunks[4:]]
    return [steps[4 + int(pick(energies))] for pick in (np.argmax, np.argmin)]


def chunked(sound: np.ndarray) -> np.ndarray:
    """A sound in chunks, each behind the end of the one before."""
    padded = np.concatenate([np.zeros(CONTEXT, sound.dtype), sound])
    starts = range(0, len(sound) - CHUNK + 1, CHUNK)
    return np.stack([padded[start : start + CONTEXT + CHUNK] for start in starts])


def speech(seconds: float) -> np.ndarray:
    """A sound like speech: pulses of a voice through the resonances of vowels, in syllables.

    The source-filter model: G. Fant, *Acoustic Theory of Speech Production*, 1960.
    """
    rng = np.random.default_rng(0)
    count = int(seconds * RATE)
    time = np.arange(count) / RATE
    pitch = 120 + 15 * np.sin(2 * np.pi * 2.5 * time)
    phase = np.cumsum(pitch / RATE)
    pulses = np.diff(np.floor(phase), prepend=0.0) + 0.01 * rng.standard_normal(count)
    vowels = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240))
    syllable = (time * 4).astype(int) % len(vowels)
    sound = sum(
        np.where(syllable == k, _resonances(pulses, formants), 0.0)
        for k, formants in enumerate(vowels)
    )
    loudness = np.clip(np.sin(2 * np.pi * 4 * time), 0, None)
    sound = sound * loudness
    sound = 0.3 * sound / np.abs(sound).max() + 1e-3 * rng.standard_normal(count)
    return sound.astype(np.float32)


def _resonances(pulses: np.ndarray, formants: Sequence[int]) -> np.ndarray:
    """Pulses through resonators in a row, as a product of spectra."""
    frequency = np.fft.rfftfreq(len(pulses), 1 / RATE)
    spectrum = np.fft.rfft(pulses)
    for formant in formants:
        width = 60 + 0.05 * formant
        spectrum = spectrum * formant**2 / (formant**2 - frequency**2 + 1j * width * frequency)
    return np.fft.irfft(spectrum, len(pulses))


def picture(height: int, width: int, channels: int) -> np.ndarray:
    """A picture with lines of dark text on light paper, as OCR models take them: between -1 and 1,
    channels first."""
    from PIL import Image, ImageDraw, ImageFont

    paper = Image.new("RGB", (width, height), (236, 232, 222))
    pen = ImageDraw.Draw(paper)
    lines = max(1, height // 64)
    size = height // lines * 5 // 8
    font = ImageFont.load_default(size)
    for line, text in zip(range(lines), _TEXTS * lines, strict=False):
        place = (width // 40, line * height // lines + size // 6)
        pen.text(place, text, fill=(30 + 8 * line, 34, 46), font=font)
    pixels = np.asarray(paper, np.float32) / 255
    grains = 0.02 * np.random.default_rng(0).standard_normal(pixels.shape)
    pixels = (pixels + grains.astype(np.float32) - 0.5) / 0.5
    if channels == 1:
        pixels = pixels.mean(2, keepdims=True)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)


_TEXTS = ["Wrong kernel 42", "Ask the source", "x7Kp", "Total 19.90"]
