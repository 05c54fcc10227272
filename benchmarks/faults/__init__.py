"""Planted faults, modelled on published bugs, and benign controls: how well are they told apart?

python -m benchmarks.faults [--only NAME ...] [--json FILE]
"""
