"""The target's process: it listens, and runs kernels in a child per session."""
