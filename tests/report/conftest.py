"""Two finished runs, and the files of notebooks that drew them."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from fedobp_lib import figures, grid, run_all
from fedobp_lib.paths import figures_dir, runs_dir
from fedobp_lib.report import figure_sources
from fedobp_lib.results.compare import compare_accuracy
from fedobp_lib.results.tables import accuracies

CPU = torch.device("cpu")
METHODS = ["majority-class", "fedavg"]


def draw(name, frame, seed=0):
    figure, axis = plt.subplots(figsize=(2, 1))
    axis.plot(np.random.default_rng(seed).random(5))
    plt.close(figure)
    figures.save(figure, frame, name, "smoke")


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A folder with two finished runs."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDOBP_RUNS", str(folder))
        run_all(grid("smoke", methods=METHODS), progress=False)
    return folder


@pytest.fixture
def results(computed):
    """The two runs, and files as three notebooks and a stranger would write them."""
    shutil.copytree(computed, runs_dir())
    results = run_all(grid("smoke", methods=METHODS), progress=False)
    short = pd.DataFrame({"dataset": ["digits", "<script>"], "quantile": [0.99998, np.nan],
                          "mean": [87.126, 100.0], "published_mean": [np.nan, np.nan]})  # fmt: skip
    long = pd.DataFrame({"round": np.arange(61), "accuracy": np.linspace(0, 100, 61)})
    draw("convergence_before_digits_0.1", long)
    draw("quickstart_scores", short, seed=1)
    figures.save_table(short, "accuracy_before_pooled_best", "smoke")
    figures.save_table(pd.concat([accuracies(results)] * 10), "accuracies", "smoke")
    figures.save_table(compare_accuracy(results), "comparison_tables_1_and_6", "smoke")
    figures.save_table(short, "of_my_own", "smoke")
    for notebook in ("02", "03"):
        figure_sources.record(figures_dir("smoke"), notebook, [r.run_id for r in results], CPU)
    return results
