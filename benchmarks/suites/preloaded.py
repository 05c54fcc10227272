"""What every sample needs, imported once: the processes of the suites begin here."""

import tvm.relax.frontend.torch  # noqa: F401

import benchmarks.suites.measure  # noqa: F401
import tapml_nb.frontends.onnx.program
import tapml_nb.frontends.torch.program  # noqa: F401
