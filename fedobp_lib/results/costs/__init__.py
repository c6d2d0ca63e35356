"""What a round costs, per method and model: FLOPs, memory, bytes sent, and what is kept.

Nothing is trained. A method plays a few rounds on a back-end that counts (`rounds`, `counting`);
what its hooks compute besides is counted operation by operation (`operations`). Bytes are those of
the messages that it sends (`methods.traffic`).
"""

from .frame import COLUMNS, costs
from .network import Network
from .text import costs_text

__all__ = ["COLUMNS", "Network", "costs", "costs_text"]
