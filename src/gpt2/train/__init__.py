"""Training: the configuration of a run, one step, the loop, what happens between steps, what must survive a crash.

`pretrain` trains a model from scratch. Importing this room imports PyTorch.
"""

from gpt2.train.config import TrainConfig, load_config, recipe_names, to_toml
from gpt2.train.pretrain import Outcome, pretrain

__all__ = ["Outcome", "TrainConfig", "load_config", "pretrain", "recipe_names", "to_toml"]
