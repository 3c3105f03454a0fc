"""Each benchmark measures us and a peer in one run; ``goals.toml`` holds what we ask of the ratio.

Start reading in ``harness.py``; ``python -m benchmarks --list`` names them all.
"""
