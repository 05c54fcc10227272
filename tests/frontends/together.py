"""Many calls as one model, so that one session judges all of them, and faults in their places."""

from __future__ import annotations

import torch
from torch import nn

import tapml_nb as tapml


class Case(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


class Together(nn.Module):
    """Every case, of a function and its tensors."""

    def __init__(self, cases):
        super().__init__()
        self.counts = [len(tensors) for _, *tensors in cases.values()]
        for name, (function, *_) in cases.items():
            self.add_module(scope(name), Case(function))

    def forward(self, *tensors):
        results, rest = list[torch.Tensor](), list(tensors)
        for case, count in zip(self.children(), self.counts, strict=True):
            found = case(*rest[:count])
            del rest[:count]
            results += found if isinstance(found, tuple) else [found]
        return tuple(results)


def scope(name):
    return name.replace(" ", "-").replace(".", "")


def session_of(cases):
    """A session of all cases; a tensor that several of them are given is another in each."""
    tensors = tuple(tensor.clone() for _, *inputs in cases.values() for tensor in inputs)
    return tapml.debug(Together(cases).eval(), tensors)


def ops_of(report, name):
    """The operators of a case, in a report or a session."""
    return [op.id for op in report.graph.ops if op.scope == scope(name)]


def by_torch(function):
    """A NumPy function for an override that PyTorch computes."""

    def compute(*arrays):
        found = function(*map(torch.from_numpy, arrays))
        return tuple(t.numpy() for t in found) if isinstance(found, tuple) else found.numpy()

    return compute
