"""Mutants of the kernels that are deployed: is every clear fault seen, and nothing else?

python -m benchmarks.mutants [--seed N] [--mutants N] [--rewrites N] [--whole N]
"""
