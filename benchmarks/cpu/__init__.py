"""How fast the compiler's code is on this machine's processor, beside libraries whose results are not reproducible.

``python -m benchmarks.cpu`` measures everything and writes benchmarks/results/cpu.json, ``--quick`` a sample.
"""
