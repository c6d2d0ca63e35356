"""Runs: their names, computing and keeping them, which ones an experiment needs.

`execution` computes one run and `store` reads it; `sweeps` computes many. `presets` has the sizes
of experiments, `experiments` the runs behind each table and figure of the paper.
"""
