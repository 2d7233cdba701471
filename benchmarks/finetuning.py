"""Fine-tuning gpt2-mini at several learning rates, on texts it has not seen. Writes results/finetuning.json.

    python benchmarks/finetuning.py --work DIR --text diary talks pairs --lr 1e-4 2e-4 4e-4 --epochs 3
    python benchmarks/finetuning.py --work DIR --text diary --lr 1e-3 --lora --epochs 3

Needs the corpus in $GPT2_CORPUS, whose held-out documents the texts are made of: `diary`, nine entries of Samuel Pepys
as one plain text; `talks`, 23 pieces of podcasts as JSON lines; `pairs`, what a user says in 34 short dialogues, each
with the assistant's answer as the completion. A row replaces the one of the same settings, and the others stay.
"""

import argparse
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import gpt2
from gpt2.bench import facts
from gpt2.data import ReadOptions, read_documents
from gpt2.files import read_journal, read_json, write_json, write_text

RESULT = Path(__file__).parent / "results" / "finetuning.json"
SETTINGS = ("text", "adapters", "lr", "epochs", "overrides")


def texts(work: Path) -> dict[str, Path]:
    """The three texts, made once."""
    found = {"diary": work / "diary.txt", "talks": work / "talks.jsonl", "pairs": work / "pairs.jsonl"}
    if not all(path.exists() for path in found.values()):
        held_out = Path(os.environ["GPT2_CORPUS"]) / "validation.jsonl.zst"
        lines = read_documents(held_out, ReadOptions(kind="text", split_on="\n"))
        documents = [json.loads(line.text) for line in lines if line.text.strip()]
        diary = [d["text"] for d in documents if "pepys" in d["source"]]
        talks = [{"text": d["text"]} for d in documents if "thechangelog" in d["source"]]
        pairs = [pair for d in documents if "dstc8" in d["source"] for pair in answers(d["text"])]
        write_text(found["diary"], "\n\n".join(diary))
        for name, examples in (("talks", talks), ("pairs", pairs)):
            write_text(found[name], "".join(json.dumps(example) + "\n" for example in examples))
    return found


def answers(dialogue: str) -> list[dict[str, str]]:
    """Each turn of the user's with the answer to it."""
    turns = dialogue.split("\n\n")
    return [
        {"prompt": f"{said}\n\nAssistant:", "completion": answer.removeprefix("Assistant:")}
        for said, answer in itertools.pairwise(turns)
        if said.startswith("User:") and answer.startswith("Assistant:")
    ]


def run(arguments: argparse.Namespace, name: str, text: Path, lr: float) -> dict[str, Any]:
    """One fine-tuning; its models are removed, and its metrics stay."""
    kind = "lora" if arguments.lora else "full"
    out = arguments.work / "-".join([name, kind, f"{lr:g}", f"{arguments.epochs:g}", *arguments.overrides])
    done = out / "row.json"
    if not done.exists():
        said = [f"optim.lr={lr}", "run.sample_every_steps=0", f"run.threads={arguments.threads}", *arguments.overrides]
        ended = gpt2.finetune(text, out, lora=arguments.lora, epochs=arguments.epochs, overrides=said)
        if not ended.finished:
            raise SystemExit("stopped; the same command goes on")
        rows = read_journal(out / "run" / "metrics.jsonl")
        held_out = [line for line in rows if "validation_loss" in line]
        steps = [line for line in rows if "loss" in line]
        row = {
            "text": name,
            "adapters": arguments.lora,
            "lr": lr,
            "epochs": arguments.epochs,
            "overrides": arguments.overrides,
            "loss_before": ended.loss_before,
            "loss": ended.loss,
            "best_step": ended.best_step,
            "steps": ended.steps,
            "turned": ended.turned,
            "seconds": steps[-1]["seconds"],
            "tokens": [measured["tokens"] for measured in held_out],
            "held_out_loss": [round(measured["validation_loss"], 4) for measured in held_out],
        }
        write_json(done, row)
        shutil.rmtree(out / "run" / "checkpoints")
        for weights in out.glob("*.safetensors"):
            weights.unlink()
    return read_json(done)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--text", nargs="+", choices=["diary", "talks", "pairs"], default=["diary", "talks", "pairs"])
    parser.add_argument("--lr", type=float, nargs="+", default=[1.2e-4, 2.4e-4, 4.8e-4])
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="a setting of the training")
    arguments = parser.parse_args()
    if arguments.work is None or "GPT2_CORPUS" not in os.environ:
        print("left out: it takes an hour and needs the corpus; say --work DIR, with GPT2_CORPUS set")
        return
    found = texts(arguments.work)
    for name in arguments.text:
        for lr in arguments.lr:
            row = run(arguments, name, found[name], lr)
            rows = read_json(RESULT)["rows"] if RESULT.exists() else []
            rows = [old for old in rows if any(old[key] != row[key] for key in SETTINGS)] + [row]
            about = facts() | {"command": "python benchmarks/finetuning.py --work DIR, and the settings of a row"}
            write_json(RESULT, {"model": "gpt2-mini", "rows": rows, "facts": about})
            print(json.dumps({key: row[key] for key in (*SETTINGS, "loss_before", "loss", "best_step")}), flush=True)


if __name__ == "__main__":
    main()
