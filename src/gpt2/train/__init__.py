"""Training: the configuration of a run, one step, the loop, callbacks, and the state that survives a crash.

`pretrain` trains a model from scratch, `finetune` adapts one to a text. Importing this room imports PyTorch.
"""

from gpt2.train.config import LoraConfig, TrainConfig
from gpt2.train.config_files import load_config, recipe_names, to_toml
from gpt2.train.finetune import Finetuned, finetune
from gpt2.train.pretrain import Outcome, pretrain
from gpt2.train.report import write_report
from gpt2.train.trackers import TensorBoard, WeightsAndBiases

__all__ = [
    "Finetuned",
    "LoraConfig",
    "Outcome",
    "TensorBoard",
    "TrainConfig",
    "WeightsAndBiases",
    "finetune",
    "load_config",
    "pretrain",
    "recipe_names",
    "to_toml",
    "write_report",
]
