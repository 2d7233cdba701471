"""Draws recipes.svg, the curves of benchmarks/results/recipes.json: python docs/pictures/recipes.py"""

import json
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent


def main() -> None:
    result = json.loads((HERE.parents[1] / "benchmarks" / "results" / "recipes.json").read_text(encoding="utf-8"))
    best = result["summary"]["best"]
    plt.rcParams.update({"svg.hashsalt": "gpt2", "font.size": 10})
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for recipe, color, dashes in (("published", "#b3541e", "--"), ("fast", "#1f6f8b", "-")):
        runs = [run for run in result["runs"] if run["arm"] == best[recipe]]
        for run in runs:
            label = f"{best[recipe].replace(' lr ', ': peak rate ')} ({len(runs)} seeds)" if run is runs[0] else None
            axes.plot([t / 1e3 for t in run["tokens"]], run["held_out_loss"], color=color, ls=dashes, lw=1, label=label)
    axes.set(xlabel="thousand tokens", ylabel="held-out loss, nats a token")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "recipes.svg", metadata={"Date": None, "Creator": None}, facecolor="white")


if __name__ == "__main__":
    main()
