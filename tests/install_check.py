"""Run by `make test-all` with the Python of an environment that holds only `pip install .`: no PyTorch, no extras.

With `--without-compiler` where that install found no C++ compiler.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import gpt2

GPT2 = str(Path(sys.executable).with_name("gpt2"))


def run_both(*arguments: str, text: str = "") -> tuple[str, str]:
    """What the command writes to standard output, and to standard error."""
    done = subprocess.run([GPT2, *arguments], input=text, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, f"gpt2 {' '.join(arguments)} exited {done.returncode}:\n{done.stderr}"
    return done.stdout, done.stderr


def run(*arguments: str, text: str = "") -> str:
    return run_both(*arguments, text=text)[0]


def check_with_engine() -> None:
    told = run("generate", "Once upon a time", "--max-tokens", "20", "--seed", "1")  # into a pipe: the continuation
    assert len(told) > 20 and told.endswith("\n"), told
    assert run("generate", "Once upon a time", "--max-tokens", "20", "--seed", "1") == told
    scored = json.loads(run("score", "--json", text="The cat sat on the mat."))
    assert 1.0 < scored["perplexity"] < 10_000.0, scored
    assert run("tokenize", "Hello world").split() == ["15496", "995"]

    model = gpt2.load()
    settings = {"temperature": 0.8, "top_k": 40}  # the command line's defaults
    assert told == model.generate("Once upon a time", max_tokens=20, seed=1, **settings).text + "\n"
    print(f"installed alone: generate, score, tokenize and gpt2.load work, with {model}")


def check_without_compiler() -> None:
    assert not list(Path(gpt2.__file__).parent.glob("native/libgpt2_native.*")), (
        "an engine is here: this proves nothing"
    )
    told, messages = run_both("generate", "Once upon a time", "--max-tokens", "5", "--seed", "1")
    assert len(told) > 5, told
    warning = next((line for line in messages.splitlines() if line.startswith("warning: ")), "")
    known = run("doctor")
    for said in ("Install a C++17 compiler", "install the package again", "NumPy computes"):
        assert said in warning, messages
        assert said in known, known
    assert "slower" in warning, messages
    print(f"installed with no compiler: generate works and says {warning}")


def main() -> None:
    for absent in ("torch", "transformers", "tokenizers"):
        assert importlib.util.find_spec(absent) is None, f"{absent} is installed: this proves nothing"
    assert Path(gpt2.__file__).is_relative_to(sys.prefix), "the checkout is imported, not the installed package"
    assert Path(gpt2.__file__).with_name("py.typed").is_file(), "type checkers would not read its types"
    if sys.argv[1:] == ["--without-compiler"]:
        check_without_compiler()
    else:
        check_with_engine()


if __name__ == "__main__":
    main()
