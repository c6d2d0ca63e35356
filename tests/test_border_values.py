"""Runs at the borders of what a setting may be: a number or one clear line, on both back-ends."""

import pytest

from fedobp_lib import RunConfig, UserError, run
from fedobp_lib.paths import runs_dir

BORDERS = [
    {"batch_size": 2**63 - 1}, {"batch_size": 2**63}, {"alpha": 5e-324}, {"alpha": 1e308},
    {"lr": 5e-324}, {"seed": 2**63 - 1}, {"partition_seed": 2**63 - 1}, {"participation": 1e-300},
    {"test_share": 1e-300}, {"test_share": 1 - 1e-12}, {"eval_every": 2**63 - 1},
    {"momentum": 1 - 1e-12}, {"clients": 1}, {"lr": 1e300}, {"min_samples": 2},
]  # fmt: skip


@pytest.mark.parametrize("values", BORDERS, ids=str)
@pytest.mark.parametrize("backend", ["loop", "batched"])
def test_border_values_in_real_rounds(values, backend, monkeypatch):
    monkeypatch.setattr("fedobp_lib.data.partition.MAX_DRAWS", 20)
    config = {"clients": 3, "rounds": 1, "local_epochs": 1, "min_samples": 2, "eval_after": "never"}
    try:
        result = run(RunConfig(**(config | values)), backend=backend, progress=False)
    except UserError as error:
        assert "\n" not in str(error) and not list(runs_dir().glob("*/*"))
    else:
        assert result.diverged or 0 <= result.accuracy() <= 100
