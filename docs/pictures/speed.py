"""Draws speed.svg, the best rounds of GPT-2 124M in benchmarks/results/inference.json: python docs/pictures/speed.py"""

import json
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
ENGINES = {"gpt2 native": "gpt2", "llama.cpp": "llama.cpp", "onnxruntime": "onnxruntime", "OpenVINO": "OpenVINO"}
FORMS = {"int8": ("int8", "q8_0"), "int4": ("int4", "q4_0")}
WORK = {"decode": "one text", "prefill": "a prompt of 1,000", "batch": "16 texts at once"}


def best_rounds() -> dict[tuple[str, str, str], float]:
    """Tokens a second by engine, form and kind of work: the best of all rounds of all runs."""
    result = json.loads((HERE.parents[1] / "benchmarks" / "results" / "inference.json").read_text(encoding="utf-8"))
    best: dict[tuple[str, str, str], float] = {}
    for measured in (each for run in result["runs"] if run["shape"] == "gpt2" for each in run["engines"]):
        engine = next(name for start, name in ENGINES.items() if measured["engine"].startswith(start))
        form = next((form for form, names in FORMS.items() if measured["engine"].endswith(names)), None)
        for work in WORK if form else ():
            rounds = [each[work] for each in measured["rounds"]]
            best[engine, form, work] = max(best.get((engine, form, work), 0.0), *rounds)
    return best


def main() -> None:
    best = best_rounds()
    plt.rcParams.update({"svg.hashsalt": "gpt2", "font.size": 9.5})
    names = [(form, engine) for form in FORMS for engine in ENGINES.values() if (engine, form, "decode") in best]
    places = [i + 0.7 * list(FORMS).index(form) for i, (form, _) in enumerate(names)]
    figure, panels = plt.subplots(1, 3, figsize=(8.4, 2.6), sharey=True, layout="constrained")
    for axes, (work, title) in zip(panels, WORK.items(), strict=True):
        values = [best[engine, form, work] for form, engine in names]
        colors = ["#1f6f8b" if engine == "gpt2" else "#c9c4ba" for _, engine in names]
        bars = axes.barh(places, values, 0.78, color=colors)
        axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=8.5)
        axes.set(title=title, xlim=(0, 1.25 * max(values)), xticks=[])
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.tick_params(length=0)
    panels[0].set_yticks(places, [f"{engine}, {form}" for form, engine in names])
    panels[0].invert_yaxis()
    figure.savefig(HERE / "speed.svg", metadata={"Date": None, "Creator": None}, facecolor="white")


if __name__ == "__main__":
    main()
