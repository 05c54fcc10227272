"""Large tensors: they reach a target in memory that is shared, and nobody there may write to them."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from tvm.script import tirx as T

import tapml_nb as tapml
from tapml_nb.judge.verdict import Verdict
from tapml_nb.targets.wire.pages import LEAST, READ_ONLY, NamelessFile, Pages, fill_from

SIZE = 64 * 512
"""Elements; twice the bytes from which on pages are used."""
