"""What every architecture needs, imported once: processes are forked from where this was."""

import transformers.modeling_utils  # noqa: F401

import tapml_nb.frontends.torch  # noqa: F401
