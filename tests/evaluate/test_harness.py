"""lm-evaluation-harness as referee: its numbers by transformers, by our adapter, and by our own benchmarks."""

import hashlib
import importlib
import json
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

import gpt2
from gpt2.errors import GenerationError
from gpt2.evaluate import evaluate, find, wikitext
from gpt2.evaluate.files_of_data import EXAMPLES
from gpt2.language_model import LanguageModel

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
NEAR = 1e-4
_TASKS = {
    "lambada_openai": "lambada/lambada_openai.yaml",
    "wikitext": "wikitext/wikitext.yaml",
    "wsc273": "wsc273/default.yaml",
}


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """lm_eval, kept from the network and from the user's caches."""
    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
            patched.setenv(name, "1")
        patched.setenv("HF_HOME", str(tmp_path_factory.mktemp("huggingface")))
        yield pytest.importorskip("lm_eval", reason="lm_eval is not installed (extra: referees)")


@pytest.fixture(scope="module", params=["random", "gpt2-mini"])
def model(request: pytest.FixtureRequest, harness: Any, tiny_folder: Path) -> LanguageModel:
    """Random weights with a context of 64; and the model that ships, for a few examples."""
    return gpt2.load(tiny_folder if request.param == "random" else request.param, weights="fp32")


@pytest.fixture(scope="module")
def n_lines(model: LanguageModel) -> int:
    return 40 if model.config.n_positions == 64 else 6


@pytest.fixture(scope="module")
def by_transformers(model: LanguageModel, harness: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    import torch
    import transformers
    from lm_eval.models.huggingface import HFLM

    folder = tmp_path_factory.mktemp("models") / "fp32"
    model.save(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield HFLM(
        pretrained=transformers.AutoModelForCausalLM.from_pretrained(folder),
        tokenizer=transformers.AutoTokenizer.from_pretrained(folder),
        device="cpu",
        batch_size=4,
    )
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def by_us(model: LanguageModel, harness: Any) -> Any:
    from gpt2.evaluate.harness import for_harness

    return for_harness(model)


def figures(harness: Any, model: Any, task: str, rows: list[dict[str, Any]], **changes: Any) -> dict[str, float]:
    """What the harness's own task, on rows of ours, reports."""
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(Path(harness.__file__).parent / "tasks" / _TASKS[task]) | changes
    config["custom_dataset"] = lambda **_: datasets.DatasetDict(test=datasets.Dataset.from_list(rows))
    config = {k: v for k, v in config.items() if k not in ("tag", "training_split", "validation_split")}
    made = ConfigurableTask(config=config)
    none_but_this = TaskManager(include_defaults=False)  # its index of all tasks takes a minute
    found = harness.simple_evaluate(
        model=model, tasks=[made], task_manager=none_but_this, bootstrap_iters=0, log_samples=False
    )
    return {name.removesuffix(",none"): value for name, value in found["results"][task].items()}


def ours(model: LanguageModel, name: str, text: str, folder: Path, stride: int | None = None, **choices: str):
    """What our benchmark reports on a file of that text."""
    (folder / "file").write_text(text, encoding="utf-8", newline="\n")
    benchmark = find(name)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    file = replace(benchmark.files[0], path="file", sha256=sha256, member="", when=())
    one = replace(benchmark, files=(file,))
    return evaluate(model, [one], folder, version="1", stride=stride, choices={name: choices})["benchmarks"][name]


def sample(made_up: str, real: str, n_lines: int) -> str:
    """The first lines of the real file, where it is here, else the made-up ones."""
    if "GPT2_DATA" not in os.environ:
        return (EXAMPLES / made_up).read_text(encoding="utf-8")
    with (Path(os.environ["GPT2_DATA"]) / real).open(encoding="utf-8", newline="\n") as file:
        return "".join(line for line, _ in zip(file, range(n_lines), strict=False))


def test_lambada_openai(model, n_lines, harness, by_transformers, by_us, tmp_path: Path) -> None:
    text = sample("lambada.jsonl", "lambada/lambada_test.jsonl", n_lines)
    rows = [json.loads(line) for line in text.splitlines()]
    theirs = figures(harness, by_transformers, "lambada_openai", rows)
    adapted = figures(harness, by_us, "lambada_openai", rows)
    found = ours(model, "lambada", text, tmp_path)["figures"]
    for each in (adapted["perplexity"], found["perplexity"]):
        assert math.log(each) == pytest.approx(math.log(theirs["perplexity"]), abs=NEAR)
    assert 100 * adapted["acc"] == 100 * theirs["acc"] == pytest.approx(found["accuracy_last_word"])


def test_wikitext(model, n_lines, harness, by_transformers, by_us, tmp_path: Path) -> None:
    text = sample("wikitext.txt", "wikitext-2-raw/wiki.test.raw", n_lines)
    rows = [{"page": page} for page in wikitext.pages(text)]
    theirs = figures(harness, by_transformers, "wikitext", rows, doc_to_target=of_the_harness("wikitext_detokenizer"))
    adapted = figures(harness, by_us, "wikitext", rows, doc_to_target=of_the_harness("wikitext_detokenizer"))
    choices = {"detokenize": "harness", "documents": "pages", "last_window": "full"}
    found = ours(model, "wikitext2", text, tmp_path, model.config.n_positions, **choices)["figures"]
    for each in (adapted["word_perplexity"], found["perplexity_per_word"]):
        assert math.log(each) == pytest.approx(math.log(theirs["word_perplexity"]), abs=NEAR)
    for each in (adapted["bits_per_byte"], found["bits_per_byte"]):
        assert each == pytest.approx(theirs["bits_per_byte"], abs=NEAR)


def test_our_rules_of_the_harness_are_its_own(harness) -> None:
    detokenizer = of_the_harness("wikitext_detokenizer")
    for page in wikitext.pages(sample("wikitext.txt", "wikitext-2-raw/wiki.test.raw", 5000)):
        assert wikitext.harness_there(page) == detokenizer({"page": page})


def of_the_harness(name: str) -> Callable[..., Any]:
    return getattr(importlib.import_module("lm_eval.tasks.wikitext.preprocess_wikitext"), name)


def test_wsc273(model, n_lines, harness, by_transformers, by_us, tmp_path: Path) -> None:
    """Its rest of the sentence begins with two spaces, the delimiter's and the sentence's own; here with one."""
    text = sample("wsc273.jsonl", "wsc273/llmfoundry_winograd_wsc.jsonl", n_lines)
    rows: list[dict[str, Any]] = []
    for line in text.splitlines():
        schema = json.loads(line)
        pairs = takewhile(lambda pair: pair[0] == pair[1], zip(*schema["context_options"], strict=False))
        before = "".join(letter for letter, _ in pairs).rpartition(" ")[0] + " "
        glue = "" if schema["continuation"][0] in "'.,;:!?" else " "
        rows.append(
            {
                "text": f"{before}it{glue}{schema['continuation']}",
                "pronoun": "it",
                "pronoun_loc": len(before),
                "options": [option.removeprefix(before) for option in schema["context_options"]],
                "label": schema["gold"],
            }
        )
    theirs = figures(harness, by_transformers, "wsc273", rows, process_docs=None, target_delimiter="")
    adapted = figures(harness, by_us, "wsc273", rows, process_docs=None, target_delimiter="")
    found = ours(model, "wsc273", text, tmp_path, start="nothing")["figures"]
    assert adapted["acc"] == theirs["acc"] == pytest.approx(found["accuracy_partial"] / 100)


def test_f1_is_that_of_the_harness(harness) -> None:
    from lm_eval.tasks.qasper.metrics import f1_abstractive

    from gpt2.evaluate.squad import f1

    for answer, right in [("the cat sat", "A cat"), ("cat cat dog", "cat dog dog"), ("1,989.", "1989"), ("x", "y")]:
        assert f1(answer, right) == pytest.approx(f1_abstractive([answer], [right]))


def test_it_writes_until_it_is_told_to_stop(model, by_us) -> None:
    from lm_eval.api.instance import Instance

    def asked(**settings: Any) -> Instance:
        return Instance(request_type="generate_until", doc={}, arguments=("Once upon a time", settings), idx=0)

    [first, second] = by_us.generate_until([asked(until=["\n"], max_gen_toks=8), asked(max_gen_toks=3)])
    assert first == model.generate("Once upon a time", max_tokens=8, temperature=0, stop=("\n",)).text
    assert len(model.tokenizer.encode(second)) <= 4
    with pytest.raises(GenerationError):
        by_us.generate_until([asked(max_gen_toks=-1)])
