"""Draws speed.svg, the best rounds of GPT-2 124M in benchmarks/results: python docs/pictures/speed.py"""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

HERE = Path(__file__).parent
MACHINES = {"inference-amx": "Intel Xeon with AMX", "inference-zen5": "AMD EPYC, Zen 5"}
ENGINES = {"gpt2 native": "gpt2", "llama.cpp": "llama.cpp", "onnxruntime": "onnxruntime", "OpenVINO": "OpenVINO"}
FORMS = {"int8": ("int8", "q8_0"), "int4": ("int4", "q4_0")}
WORK = {"decode": "one text", "prefill": "a prompt of 1,000", "batch": "16 texts at once"}


def best_rounds(name: str) -> dict[tuple[str, str, str], float]:
    """Tokens a second by engine, form and kind of work: the best of all rounds of all runs."""
    result = json.loads((HERE.parents[1] / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    best: dict[tuple[str, str, str], float] = {}
    for measured in (each for run in result["runs"] if run["shape"] == "gpt2" for each in run["engines"]):
        engine = next((name for start, name in ENGINES.items() if measured["engine"].startswith(start)), None)
        form = next((form for form, names in FORMS.items() if measured["engine"].endswith(names)), None)
        for work in WORK if engine and form else ():
            rounds = [each[work] for each in measured["rounds"]]
            best[engine, form, work] = max(best.get((engine, form, work), 0.0), *rounds)
    return best


def draw(panels: Sequence[Axes], best: dict[tuple[str, str, str], float], machine: str) -> None:
    """A machine's bars, a panel for each kind of work."""
    names = [(form, engine) for form in FORMS for engine in ENGINES.values() if (engine, form, "decode") in best]
    places = [i + 0.7 * list(FORMS).index(form) for i, (form, _) in enumerate(names)]
    for axes, (work, title) in zip(panels, WORK.items(), strict=True):
        values = [best[engine, form, work] for form, engine in names]
        colors = ["#1f6f8b" if engine == "gpt2" else "#c9c4ba" for _, engine in names]
        bars = axes.barh(places, values, 0.78, color=colors)
        axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=8.5)
        axes.set(title=title, xlim=(0, 1.25 * max(values)), xticks=[])
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.tick_params(length=0)
    panels[0].set_yticks(places, [f"{engine}, {form}" for form, engine in names])
    panels[0].set_ylabel(machine)
    panels[0].invert_yaxis()


def main() -> None:
    plt.rcParams.update({"svg.hashsalt": "gpt2", "font.size": 9.5})
    figure, rows = plt.subplots(len(MACHINES), 3, figsize=(8.4, 5.0), sharey="row", layout="constrained")
    for panels, (name, machine) in zip(rows, MACHINES.items(), strict=True):
        draw(panels, best_rounds(name), machine)
    figure.savefig(HERE / "speed.svg", metadata={"Date": None, "Creator": None}, facecolor="white")


if __name__ == "__main__":
    main()
