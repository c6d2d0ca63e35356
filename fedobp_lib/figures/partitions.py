"""Who has which data."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from ..data.partition import Partition
from .style import styled, whole_numbers


def plot_partition(partition: Partition, labels: np.ndarray, title: str = "") -> Figure:
    """Which client has how much of which class: a bubble's area is its number of samples."""
    classes = int(labels.max()) + 1
    counts = partition.class_counts(labels, classes) + partition.class_counts(
        labels, classes, "test"
    )
    client, label = np.nonzero(counts)
    size = counts[client, label]
    with styled():
        width = min(9.0, 2.5 + 0.22 * partition.clients)
        figure, (top, axis) = plt.subplots(
            2, 1, figsize=(width, 1.6 + 0.2 * min(classes, 20)), sharex=True,
            height_ratios=[1, 3], layout="constrained",
        )  # fmt: skip
        axis.scatter(client, label, s=160 * size / counts.max(), color="#0072B2", alpha=0.75, lw=0)
        whole_numbers(axis, "client")
        axis.set_ylabel("class")
        axis.set_yticks(range(0, classes, max(1, classes // 10)))
        axis.set_xlim(-1, partition.clients)
        axis.set_ylim(-0.8, classes - 0.2)
        top.bar(np.arange(partition.clients), counts.sum(1), color="#666666", width=0.8)
        top.set_ylabel("samples")
        top.set_title(title, loc="left")
        plt.close(figure)
    return figure
