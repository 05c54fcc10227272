"""What comes of a call when the target cannot take part in it."""

from __future__ import annotations

import resource

import numpy as np
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
        room = psutil.Process(session.engine.pool.first.platform["pid"]).memory_info().vms + 16 * MB
        resource.prlimit(
            session.engine.pool.first.platform["pid"], resource.RLIMIT_AS, (room, room)
        )
        report = session.run()
        assert report.verdict("tanh") is Verdict.UNSUPPORTED
        assert report.introduced["tanh", 0].message.startswith("the target cannot hold an input")
        assert report.verdict("sigmoid") is Verdict.PASS
        assert report.ok
        assert report.culprits == []
        assert session.engine.pool.first.restarts == 0


class Two(nn.Module):
    """Two operators, of which each has a large input of its own."""

    def forward(self, x, y):
        return torch.tanh(x), torch.sigmoid(y)


def leave_room(session: tapml.Session, size: int) -> None:
    """Let the target's process grow by so many bytes and no more."""
    pid = session.engine.pool.first.platform["pid"]
    room = psutil.Process(pid).memory_info().vms + size
    resource.prlimit(pid, resource.RLIMIT_AS, (room, room))


def test_what_is_not_needed_makes_room(kernel_cache, nothing_left):
    """Other tensors have the room; they go, and would come back when they are needed."""
    with tapml.debug(Two().eval(), (torch.randn(3, 16), torch.randn(6 * MB))) as session:
        session.run("tanh")
        session.engine.pool.first.put("ballast", np.zeros(128 * MB, np.uint8))
        leave_room(session, 20 * MB)  # for its library and a thread, and not for its tensors
        assert session.run("sigmoid").verdict("sigmoid") is Verdict.PASS
        assert not session.engine.pool.first.resident("ballast")
        assert session.engine.pool.first.restarts == 0


def test_what_its_process_has_kept_is_no_limit_of_the_next_kernel(kernel_cache, nothing_left):
    """Its process has no room any more, a fresh one has."""
    with tapml.debug(Two().eval(), (torch.randn(3, 16), torch.randn(MB))) as session:
        session.run("tanh")
        target = session.engine.pool.first
        target.put("kept", np.zeros(16 * MB, np.uint8))
        target.connected().resident.discard(["kept"])  # nobody can free it
        leave_room(session, 2 * MB)
        assert session.run("sigmoid").verdict("sigmoid") is Verdict.PASS
        assert session.engine.pool.first.restarts == 1
