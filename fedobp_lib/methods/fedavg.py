"""FedAvg (McMahan et al. 2017): one global model, averaged; nothing is personal."""

from __future__ import annotations

from .base import Method, register


@register("fedavg")
class FedAvg(Method):
    """Every client starts from the global model; the server averages what they trained.

    Its accuracy `after` local training is the row "FedAvg + fine-tuning" of the tables.
    """

    title = "FedAvg"
    source = "McMahan et al., AISTATS 2017, arXiv 1602.05629"
