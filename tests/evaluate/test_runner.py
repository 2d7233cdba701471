"""Files and their hashes, the cache, choices, and what a report holds."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpt2.errors import ContextError, DataError
from gpt2.evaluate import Benchmark, Plan, answering, evaluate, find
from gpt2.evaluate.cache import Answers
from gpt2.generation.targets import Target, TargetScore
from gpt2.language_model import LanguageModel

LINES = "".join(json.dumps({"text": f"a {word} and then the {word}"}) + "\n" for word in ("cat", "dog", "boat", "key"))


@pytest.fixture
def lambada(tmp_path: Path) -> Benchmark:
    """The benchmark on a file of our own."""
    (tmp_path / "mine.jsonl").write_text(LINES, encoding="utf-8", newline="\n")
    file = replace(find("lambada").files[0], path="mine.jsonl", sha256=hashlib.sha256(LINES.encode()).hexdigest())
    return replace(find("lambada"), files=(file,))


def test_a_report_says_what_was_measured_with_what(model: LanguageModel, lambada: Benchmark, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    report = evaluate(model, [lambada], tmp_path, version="1", progress=lambda *each: seen.append(each))
    found = report["benchmarks"]["lambada"]
    assert found["examples"] == found["requests"] == 4
    assert found["files"] == {"mine.jsonl": hashlib.sha256(LINES.encode()).hexdigest()}
    assert found["choices"] == {"text": "openai", "start": "nothing"}
    assert found["paper"]["perplexity"][0] == 35.13
    assert report["settings"] == {"stride": 32, "limit": None, "limits": {}, "data": "files"}
    assert report["model"]["sha256"] == model.checkpoint.files_sha256()
    assert report["model"]["weights"] == "fp32"
    assert seen[-1] == ("lambada", 4, 4)
    json.dumps(report)


def test_an_interrupted_run_goes_on_where_it_was(
    model: LanguageModel, lambada: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "_STEP_TOKENS", 1)  # each request by itself
    cache = tmp_path / "cache"

    def stop(name: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, [lambada], tmp_path, version="1", cache=cache, progress=stop)
    [file] = cache.iterdir()
    with file.open("a", encoding="utf-8") as torn:
        torn.write('{"key": "abc", "logpr')
    again = evaluate(model, [lambada], tmp_path, version="1", cache=cache)["benchmarks"]["lambada"]
    assert again["from_cache"] == 2
    third = evaluate(model, [lambada], tmp_path, version="1", cache=cache)["benchmarks"]["lambada"]
    assert (third["from_cache"], third["tokens_computed"]) == (4, 0)
    alone = evaluate(model, [lambada], tmp_path, version="1")["benchmarks"]["lambada"]
    assert alone["from_cache"] == 0
    assert alone["figures"] == again["figures"] == third["figures"]
    other = evaluate(model, [lambada], tmp_path, version="1", cache=cache, choices={"lambada": {"start": "endoftext"}})
    assert other["benchmarks"]["lambada"]["from_cache"] == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_cache_on_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "answers.jsonl"
    answers = Answers(path)
    answers.close()
    monkeypatch.setattr(answers, "_file", Path("/dev/full").open("w", encoding="utf-8"))  # noqa: SIM115 -- put closes it
    with pytest.raises(OSError, match="No space left") as caught:
        answers.put(Target(context=(1,), targets=(2,)), TargetScore(logprobs=(-1.0,), ranks=(0,)))
    assert caught.value.filename == str(path)
    answers.close()


def test_a_missing_file_and_a_wrong_one(model: LanguageModel, lambada: Benchmark, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lambada_test\.jsonl is missing. It is OpenAI's .* 4aa8d02c") as caught:
        evaluate(model, [find("lambada")], tmp_path, version="1")
    command = f"gpt2 download-data lambada --data {tmp_path}"
    assert f" `{command}` fetches it." in str(caught.value)
    with pytest.raises(DataError, match=r"lambada-dataset\.tar\.gz is missing") as caught:
        evaluate(model, [find("lambada")], tmp_path, version="1", choices={"lambada": {"text": "original"}})
    assert f" `{command} --every-choice` fetches it." in str(caught.value)
    (tmp_path / "mine.jsonl").write_text("other", encoding="utf-8")
    with pytest.raises(DataError, match=r"mine\.jsonl is not the file that is meant") as caught:
        evaluate(model, [lambada], tmp_path, version="1")
    assert hashlib.sha256(b"other").hexdigest() in str(caught.value)
    assert lambada.files[0].sha256 in str(caught.value)


def test_an_example_that_no_context_holds(model: LanguageModel, lambada: Benchmark, tmp_path: Path) -> None:
    def plan(*_: object) -> Plan:
        raise ContextError("it does not fit")

    with pytest.raises(ContextError):
        evaluate(model, [replace(lambada, plan=plan)], tmp_path, version="1")
    both = [replace(lambada, name="long", plan=plan), lambada]
    found = evaluate(model, both, tmp_path, version="1", skip_missing=True)["benchmarks"]
    assert found["long"]["missing"] == "it does not fit"
    assert found["lambada"]["examples"] == 4


def test_a_limit_is_in_the_title(model: LanguageModel, lambada: Benchmark, tmp_path: Path) -> None:
    report = evaluate(model, [lambada], tmp_path, version="1", limit=2, limits={"lambada": 3})
    assert report["benchmarks"]["lambada"]["examples"] == 3
    assert report["benchmarks"]["lambada"]["title"] == "LAMBADA (the first 3)"
    assert report["settings"]["limits"] == {"lambada": 3}
    report = evaluate(model, [lambada], tmp_path, version="1", limit=2)
    assert report["benchmarks"]["lambada"]["title"] == "LAMBADA (the first 2)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"choices": {"lambada": {"txt": "openai"}}}, "lambada has no choice 'txt'. Its choices: text, start"),
        ({"choices": {"lambada": {"text": "mine"}}}, "lambada.text cannot be 'mine'. It can be: openai, normalised"),
        ({"stride": 65}, "stride must lie between 1 and the context of 64"),
    ],
)
def test_what_cannot_be_chosen(model: LanguageModel, lambada: Benchmark, tmp_path: Path, settings, message) -> None:
    with pytest.raises(DataError) as caught:
        evaluate(model, [lambada], tmp_path, version="1", **settings)
    assert message in str(caught.value)


def test_an_unknown_benchmark_has_a_nearest_name() -> None:
    with pytest.raises(DataError, match="Did you mean wikitext2"):
        find("wikitext-2x")
    with pytest.raises(DataError, match="There are: lambada, cbt-cn, cbt-ne, wikitext2"):
        find("qqq")


def test_a_vocabulary_without_an_end_of_text_token(lambada: Benchmark, tmp_path: Path) -> None:
    strange: Any = SimpleNamespace(tokenizer=SimpleNamespace(eot=None))
    with pytest.raises(DataError, match="its vocabulary has no end-of-text token"):
        evaluate(strange, [lambada], tmp_path, version="1")
