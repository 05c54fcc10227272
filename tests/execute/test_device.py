"""What comes of a call when the target cannot take part in it."""

from __future__ import annotations

import resource

import psutil
import torch
from torch import nn

import tapml_nb as tapml
from tapml_nb.judge.verdict import Verdict

MB = 1 << 20


def test_a_target_without_room_for_an_input(kernel_cache, nothing_left):
    """It is not the kernel's fault, and the next operator has its verdict."""

    class Wide(nn.Module):
        def forward(self, x, y):
            return torch.tanh(x), torch.sigmoid(y)

    x, y = torch.randn(8 * MB), torch.randn(16)
    with tapml.debug(Wide().eval(), (x, y)) as session:
        session.run("sigmoid")
        room = psutil.Process(session._target._pid).memory_info().vms + 16 * MB
        resource.prlimit(session._target._pid, resource.RLIMIT_AS, (room, room))
        report = session.run()
        assert report.verdict("tanh") is Verdict.UNSUPPORTED
        assert report.introduced["tanh", 0].message.startswith("the target cannot hold an input")
        assert report.verdict("sigmoid") is Verdict.PASS
        assert report.ok
        assert report.culprits == []
        assert session._target.restarts == 0
