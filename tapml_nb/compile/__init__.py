"""Compile: a unit of the model → a kernel for the target, each in isolation, each once."""
