"""Front ends: a model of some framework → a :class:`~tapml_nb.frontends.program.Program`."""
