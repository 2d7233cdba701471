"""How fast a model runs here: decode, prefill, batches and cold start, alone or beside other software.

Each engine runs in its own process, with its own threads and memory; the engines take turns, so that a slow minute of
the machine affects all of them.
"""

from gpt2.bench.comparison import PEERS, Figures, compare
from gpt2.bench.facts import facts
from gpt2.bench.workload import Workload

__all__ = ["PEERS", "Figures", "Workload", "compare", "facts"]
