"""What every model needs, imported once: the processes of :mod:`benchmarks.isolated` begin here."""

import transformers.modeling_utils  # noqa: F401

import tapml_nb.frontends.torch  # noqa: F401
