"""Train on a Ray cluster: Ray starts and joins a worker for each GPU, and each takes its part of every step.

    pip install "ray[train]"   # and on every node, in a checkout: pip install -c constraints.txt '.[train]'
    python train_ray.py gpt2-124m-fast /shared/shards /shared/run 8

All nodes must share the shards and the run folder. The same command resumes the run.
"""

import sys
from typing import Any

import ray
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer


def work(run: dict[str, Any]) -> None:
    """The work of each worker; Ray has already joined them."""
    import gpt2
    from gpt2.train import load_config

    gpt2.pretrain(load_config(run["recipe"], run["overrides"]))


def main() -> None:
    """Start the workers and wait."""
    recipe, data, out, workers = sys.argv[1:5]
    ray.init()
    scaling = ScalingConfig(num_workers=int(workers), use_gpu=bool(ray.cluster_resources().get("GPU")))
    run = {"recipe": recipe, "overrides": [f"data.folder={data}", f"run.folder={out}", *sys.argv[5:]]}
    TorchTrainer(work, train_loop_config=run, scaling_config=scaling).fit()


if __name__ == "__main__":
    main()
