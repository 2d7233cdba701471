"""Language identification beside the detectors that install here. Writes results/languages.json.

    GPT2_WEB=DIR python benchmarks/languages.py [--peers PYTHONPATH] [--language-model lid.176.ftz]

The sentences are 100 for each of 75 languages from lingua's own test set (7,500 in all). A detector's accuracy is the
mean over the languages that it knows, a language being known where at least one of its sentences is told right; beside
it over all 75. "Let through" is the share of the 7,400 sentences that are not English but are taken for English, with
a confidence of at least 0.5 and of at least 0.9 where the detector gives one. A peer that is not installed is left out.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zstandard

from gpt2.bench import facts
from gpt2.data.corpus.language import identify
from gpt2.files import write_json

RESULT = Path(__file__).parent / "results" / "languages.json"
Detect = Callable[[str], tuple[str, float]]
SAME = {"no": "nb", "iw": "he", "zh-cn": "zh", "zh-tw": "zh", "zh-hant": "zh", "fil": "tl", "in": "id", "jw": "jv"}


def py3langid() -> Detect:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return lambda text: identifier.classify(text)


def lingua() -> Detect:
    from lingua import LanguageDetectorBuilder

    detector = LanguageDetectorBuilder.from_all_languages().build()

    def detect(text: str) -> tuple[str, float]:
        best = detector.compute_language_confidence_values(text)[0]
        return best.language.iso_code_639_1.name.lower(), best.value

    return detect


def langdetect() -> Detect:
    from langdetect import DetectorFactory, LangDetectException, detect_langs

    DetectorFactory.seed = 0

    def detect(text: str) -> tuple[str, float]:
        try:
            best = detect_langs(text)[0]
        except LangDetectException:
            return "", 0.0
        return best.lang, best.prob

    return detect


def cld2() -> Detect:
    import pycld2

    def detect(text: str) -> tuple[str, float]:
        try:
            _, _, found = pycld2.detect(text)
        except pycld2.error:
            return "", 0.0
        return found[0][1], found[0][2] / 100

    return detect


def cld3() -> Detect:
    import gcld3

    detector = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)

    def detect(text: str) -> tuple[str, float]:
        best = detector.FindLanguage(text=text)
        return best.language, best.probability

    return detect


def fasttext(model_file: Path) -> Detect:
    from fasttext.FastText import _FastText

    model: Any = _FastText(str(model_file))

    def detect(text: str) -> tuple[str, float]:
        labels, sure = model.predict(text.replace("\n", " "), k=1)
        return labels[0].removeprefix("__label__"), float(sure[0])

    return detect


def measure(detect: Detect, rows: list[dict[str, str]]) -> dict[str, Any]:
    """Accuracy, what is let through, and milliseconds a sentence."""
    for row in rows[:20]:
        detect(row["text"])
    began = time.process_time()
    found = [detect(row["text"]) for row in rows]
    seconds = time.process_time() - began
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    let_in = {0.5: 0, 0.9: 0}
    for row, (label, sure) in zip(rows, found, strict=True):
        label = SAME.get(label.lower(), label.lower().split("-")[0])
        total[row["lang"]] += 1
        right[row["lang"]] += label == row["lang"]
        for least in let_in:
            let_in[least] += row["lang"] != "en" and label == "en" and sure >= least
    known = [language for language in total if right[language]]
    others = sum(total.values()) - total["en"]
    return {
        "languages_known": len(known),
        "accuracy_over_known": sum(right[one] / total[one] for one in known) / len(known),
        "accuracy_over_all": sum(right[one] / total[one] for one in total) / len(total),
        "english": right["en"] / total["en"],
        "let_through_at_0.5": let_in[0.5] / others,
        "let_through_at_0.9": let_in[0.9] / others,
        "milliseconds": 1000 * seconds / len(rows),
        "by_language": {one: right[one] / total[one] for one in sorted(total)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default="")
    parser.add_argument("--language-model", type=Path)
    parser.add_argument("--out", type=Path, default=RESULT)
    chosen = parser.parse_args()
    if "GPT2_WEB" not in os.environ:
        print("Left out: GPT2_WEB does not name the folder of web-page test data.")
        return
    sys.path += chosen.peers.split(":") if chosen.peers else []
    with (Path(os.environ["GPT2_WEB"]) / "langid.jsonl.zst").open("rb") as file:
        data = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file).read().decode()
    rows = [json.loads(line) for line in data.split("\n") if line]
    rows = [row for row in rows if row["source"].startswith("lingua")]
    peers: dict[str, Callable[[], Detect]] = {
        "ours: py3langid, CLD2 in doubt": lambda: identify,
        "py3langid": py3langid,
        "lingua, high accuracy": lingua,
        "langdetect": langdetect,
        "CLD2": cld2,
        "CLD3": cld3,
    }
    if chosen.language_model:
        peers["fastText lid.176.ftz"] = lambda: fasttext(chosen.language_model)
    result: dict[str, Any] = {}
    for name, make in peers.items():
        try:
            detect = make()
        except ImportError as error:
            print(f"{name} is left out: {error}")
            continue
        one = result[name] = measure(detect, rows)
        ours = next(iter(result.values()))["by_language"]
        known = [language for language, share in one["by_language"].items() if share]
        one["ours_over_the_same"] = sum(ours[language] for language in known) / len(known)
        percent = {key: f"{100 * value:.3f} %" for key, value in one.items() if key != "by_language"}
        print(
            f"{name:<32}{one['languages_known']:>4} languages {percent['accuracy_over_known']} of these "
            f"(ours {percent['ours_over_the_same']}), {percent['accuracy_over_all']} of all, English "
            f"{percent['english']}, let through {percent['let_through_at_0.5']} at 0.5, "
            f"{percent['let_through_at_0.9']} at 0.9, {one['milliseconds']:.2f} ms",
            flush=True,
        )
    write_json(chosen.out, {**facts(), "sentences": len(rows), "detectors": result})


if __name__ == "__main__":
    main()
