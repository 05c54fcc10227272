"""Names cut to what an axis has room for, so that they stay apart.

Fused kernels and deep modules have long names that differ in a few words.  What many names share
goes first; what is left out stands as "…".  ``extensions/widgets/src/heatmap/labels.ts`` does the
same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

_WORD = re.compile(r"([+./]?)([^+./]*)")


def apart(names: Sequence[str], most: int) -> list[str]:
    """A label of at most ``most`` characters for each name; different names, different labels.

    >>> apart(["aten.mul", "aten.mul+aten.add+aten.mul", "aten.mul+aten.silu+aten.mul"], 10)
    ['mul', '…add+mul', '…silu+mul']
    >>> apart([f"model.layers.{k}.self_attn.q_proj" for k in (0, 1)], 12)
    ['…0…q_proj', '…1…q_proj']
    """
    whole = [_plain(name) for name in names]
    if len(set(whole)) < len(set(names)):  # "aten." was all that told two apart
        whole = list(names)
    words = [_words(name) for name in whole]
    common = Counter(word for of_one in words for word in {word for _, word in of_one})
    labels = [
        name if len(name) <= most else _cut(of_one, common, most)
        for name, of_one in zip(whole, words, strict=True)
    ]
    return _numbered(whole, labels, most)


def shortened(text: str, kept: int) -> str:
    """A text with ``kept`` of its characters, the middle left out."""
    # The end of a name tells more than its beginning.
    tail = -(-max(0, kept) * 3 // 5)
    return f"{text[: max(0, kept - tail)]}…{text[len(text) - tail :]}"


def _plain(name: str) -> str:
    """A kind in fewer letters: without the library's name, repeated calls as a number."""
    calls = [call.removeprefix("aten.") for call in name.split("+")]
    runs = [(call, len(list(run))) for call, run in groupby(calls)]
    return "+".join(call if n == 1 else f"{call}*{n}" for call, n in runs)


def _words(name: str) -> list[tuple[str, str]]:
    """The words of a name, each with the separator before it."""
    return [(mark, word) for mark, word in _WORD.findall(name) if mark or word]


def _cut(words: Sequence[tuple[str, str]], common: Counter[str], most: int) -> str:
    """The words that fewest other names have, of those the last, as far as there is room."""
    kept: set[int] = set()
    for k in sorted(range(len(words)), key=lambda k: (common[words[k][1]], -k)):
        if len(_joined(words, kept | {k})) <= most:
            kept.add(k)
    if kept:
        return _joined(words, kept)
    rarest = min(words, key=lambda word: common[word[1]])[1]
    return shortened(rarest, most - 1)


def _joined(words: Sequence[tuple[str, str]], kept: set[int]) -> str:
    text, last = "", -1
    for k in sorted(kept):
        mark, word = words[k]
        text += f"{mark}{word}" if k == last + 1 else f"…{word}"
        last = k
    return text if last == len(words) - 1 else f"{text}…"


def _numbered(names: Sequence[str], labels: Sequence[str], most: int) -> list[str]:
    """Labels that several names share, with a number each."""
    sharing: dict[str, dict[str, int]] = {}
    for name, label in zip(names, labels, strict=True):
        of_label = sharing.setdefault(label, {})
        of_label.setdefault(name, len(of_label) + 1)
    result = []
    for name, label in zip(names, labels, strict=True):
        if len(sharing[label]) > 1:
            mark = f" ({sharing[label][name]})"
            label = (
                label if len(label + mark) <= most else shortened(label, most - len(mark) - 1)
            ) + mark
        result.append(label)
    return result
