"""What the model is asked, to the character; what is taken from its continuation; what is left out."""

import random
import re
from dataclasses import replace

import pytest

from gpt2.errors import ContextError, GenerationError
from gpt2.generation import Sampling
from gpt2.tasks import Prompts, Room, answer, summarize, translate
from gpt2.tasks import sentences as sentences_module
from gpt2.tasks.sentences import first_sentences, sentences

PROMPTS = Prompts.ours()


def words(n_positions: int) -> Room:
    """A word is a token."""
    return Room(n_positions=n_positions, count=lambda text: len(text.split()))


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [
        (" One. Two! Three? Four.", 3, "One. Two! Three?"),
        ("Dr. Smith met J. R. Hartley in the U.S. today. Then he left.", 1, None),
        ('"Stop!" he said. Then.', 1, '"Stop!"'),
        ("It costs 3.50 dollars. More.", 1, "It costs 3.50 dollars."),
        ("He and I. Then.", 1, "He and I."),
        ("Is it? No. Yes.", 2, "Is it? No."),
        ("A heading\n\nA sentence.", 1, "A heading"),
        ("no end", 2, "no end"),
        ("", 1, ""),
        ("... and so on. B.", 1, "..."),
    ],
)
def test_sentences(text: str, n: int, expected: str | None) -> None:
    expected = "Dr. Smith met J. R. Hartley in the U.S. today." if expected is None else expected
    assert first_sentences(text, n) == expected


def plain_ends(text: str) -> list[int]:
    """Where sentences end, by the definition: each stop is judged by the last word of all that stands before it."""
    ends = []
    for end in re.finditer(r"[.!?…]+[\"'”’»)\]]*(?=\s|$)|\n\s*\n", text):
        words = text[: end.start()].split()[-1:]
        word = words[0].lstrip("\"'“‘«([") if words else ""
        if end[0] != "." or not sentences_module._ABBREVIATIONS.fullmatch(word):
            ends.append(end.end())
    return ends


def test_ends_are_those_of_the_definition() -> None:
    draw = random.Random(0)
    parts = [*'..!?…"”)( \n\n\t\rxI', "\u2028", "Dr", "J", "U.S", "e.g", "etc", "word", "Mr.\n\n. ", "A. ", "B.", " . "]
    for _ in range(20_000):
        text = "".join(draw.choices(parts, k=draw.randrange(12)))
        assert list(sentences_module._ends(text)) == plain_ends(text), repr(text)


def test_sentences_take_work_in_proportion_to_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    dots = "." * 900_000 + "x"  # hours, where each of them is tried as the first of a row
    assert sentences(dots) == [dots] == sentences(dots + "\n \t" * 9)
    looked_at: list[int] = []
    abbreviates = sentences_module._abbreviates
    monkeypatch.setattr(
        sentences_module, "_abbreviates", lambda before: (looked_at.append(len(before)), abbreviates(before))[1]
    )
    for text in ("A. " * 3000, "A . " * 3000, "Mr\n\n. " * 3000, " \n" * 3000 + "."):
        looked_at.clear()
        sentences(text)
        assert 0 < sum(looked_at) <= len(text)


def test_translation_is_asked_in_the_papers_form() -> None:
    short = replace(PROMPTS.translate, examples=({"english": "One.", "french": "Un."},) * 2)
    asked = translate.ask("Deux\nmots.", source="french", target="english", prompts=short, room=words(200))
    assert asked.prompt == "Un. = One.\nUn. = One.\nDeux mots. ="
    assert asked.sampling.is_greedy
    assert asked.sampling.stop == ("\n",)
    assert asked.left_out == ""
    assert translate.read("\n Two words. And more.") == "Two words."
    assert translate.read("Two = words\nUn. = One.") == "Two = words"


def test_only_languages_of_every_example_can_be_asked_for() -> None:
    one, other = {"english": "One.", "french": "Un."}, {"english": "Two.", "german": "Zwei.", "french": "Deux."}
    assert replace(PROMPTS.translate, examples=(one, other)).languages == ("english", "french")


def test_a_brace_in_the_text_is_only_a_brace() -> None:
    short = replace(PROMPTS.translate, examples=())
    assert short.languages == ()
    asked = translate.prompt("{target} {0}", source="a", target="b", form="{source} = {target}", examples=())
    assert asked == "{target} {0} ="
    assert summarize.prompt("{hint} {0}", form="{text}\n{hint}", hint="TL;DR:") == "{hint} {0}\nTL;DR:"
    assert summarize.prompt("{hint}", form="{hint} {text}", hint="In short:") == "In short: {hint}"


def test_examples_give_way_first_ones_first() -> None:
    def asked(n_positions: int):
        return translate.ask(
            "Un mot.", source="french", target="english", prompts=PROMPTS.translate, room=words(n_positions)
        )

    whole = asked(1000)
    assert asked(130).prompt in whole.prompt
    assert whole.prompt.endswith(asked(130).prompt)
    assert "left out" in asked(130).left_out
    assert whole.left_out == ""
    assert asked(6).prompt == "Un mot. ="
    with pytest.raises(ContextError, match="it takes 3 tokens, and of the context of 4 there are 2"):
        asked(4)


def test_a_text_that_does_not_fit_alone_is_counted_once() -> None:
    counted: list[str] = []

    def count(text: str) -> int:
        counted.append(text)
        return len(text.split())

    with pytest.raises(ContextError, match="it takes 1,001 tokens"):
        translate.ask(
            "mot " * 1000,
            source="french",
            target="english",
            prompts=PROMPTS.translate,
            room=Room(n_positions=200, count=count),
        )
    assert len(counted) == 1


def test_a_summary_is_asked_with_the_hint_after_the_article() -> None:
    asked = summarize.ask(" An article.\nTwo lines. \n", prompts=PROMPTS.summarize, room=words(300))
    assert asked.prompt == "An article.\nTwo lines.\nTL;DR:"
    assert (asked.sampling.top_k, asked.sampling.max_tokens, asked.sampling.temperature) == (2, 100, 1.0)
    assert summarize.read(" One. Two. Three. Four.") == "One. Two. Three."


@pytest.mark.parametrize("n_words", [150, 198, 199, 200, 201, 5000])
def test_an_article_keeps_as_many_first_words_as_fit(n_words: int) -> None:
    text = " ".join(f"w{i}" for i in range(n_words))
    asked = summarize.ask(text, prompts=PROMPTS.summarize, room=words(300))
    kept = min(n_words, 199)  # 300 less 100 to generate, less the hint
    assert asked.prompt == " ".join(f"w{i}" for i in range(kept)) + "\nTL;DR:"
    expected = f"only the first 199 of the article's {n_words:,} words fit" if n_words > 199 else ""
    assert asked.left_out.startswith(expected)
    assert bool(asked.left_out) == (n_words > 199)


def test_without_a_hint_each_token_may_be_a_word_of_the_article() -> None:
    bare = replace(PROMPTS.summarize, form="{text}", hint="")
    assert summarize.ask("w " * 201, prompts=bare, room=words(300)).prompt.count("w") == 200


def test_an_article_of_words_longer_than_tokens_mostly_are_is_kept_where_it_fits() -> None:
    text = " ".join(["w" * 4000] * 9)
    asked = summarize.ask(text, prompts=PROMPTS.summarize, room=words(300))
    assert (asked.prompt, asked.left_out) == (f"{text}\nTL;DR:", "")


def test_a_text_of_which_no_word_fits_is_refused_and_not_left_out() -> None:
    room = Room(n_positions=60, count=len)
    with pytest.raises(ContextError, match=r"not even its first word fits.* takes 7 tokens, .* 60 there are 30"):
        summarize.ask("漢字" * 5_000, prompts=PROMPTS.summarize, room=room)
    with pytest.raises(ContextError, match="not even its first word fits"):
        answer.ask("Why?", prompts=PROMPTS.answer, room=room, context="漢字" * 5_000)


def test_a_question_from_what_the_model_knows() -> None:
    few = replace(PROMPTS.answer, examples=(("Who?", "Me"), ("What?", "That")))
    asked = answer.ask("When\nthen?", prompts=few, room=words(100))
    assert asked.prompt == "Q: Who?\nA: Me\nQ: What?\nA: That\nQ: When then?\nA:"
    assert asked.sampling.is_greedy
    assert answer.ask("When?", prompts=few, room=words(14)).left_out == (
        "the first example is left out: the context is too short for all"
    )
    assert asked.sampling.stop == ("\n",)
    assert answer.read("\n In 1989\nQ: Where?") == "In 1989"


def test_a_question_about_a_passage() -> None:
    history = (("Who?", "Ann"), ("Where?", "Here"))
    asked = answer.ask("Why?", prompts=PROMPTS.answer, room=words(100), context="Ann was here.\n", history=history)
    assert asked.prompt == "Ann was here.\n\nQ: Who?\nA: Ann\nQ: Where?\nA: Here\nQ: Why?\nA:"
    shorter = answer.ask("Why?", prompts=PROMPTS.answer, room=words(20), context="Ann was here.", history=history)
    assert shorter.prompt == "Ann was here.\n\nQ: Where?\nA: Here\nQ: Why?\nA:"
    assert "first earlier question is left out" in shorter.left_out
    cut = answer.ask("Why?", prompts=PROMPTS.answer, room=words(10), context="Ann was here.", history=history)
    assert cut.prompt == "Ann was\n\nQ: Why?\nA:"
    assert "first 2 of the passage's 3 words" in cut.left_out
    assert "earlier questions" in cut.left_out


def test_what_cannot_be_asked() -> None:
    room = words(100)
    with pytest.raises(GenerationError, match="'klingon': their languages are english, french"):
        translate.ask("a", source="klingon", target="english", prompts=PROMPTS.translate, room=room)
    with pytest.raises(GenerationError) as caught:
        translate.ask("a", source="x" * 10_000, target="english", prompts=PROMPTS.translate, room=room)
    assert len(str(caught.value)) < 1000
    with pytest.raises(GenerationError, match="from french to french"):
        translate.ask("a", source="french", target="french", prompts=PROMPTS.translate, room=room)
    with pytest.raises(GenerationError, match="text is empty"):
        translate.ask(" \n", source="french", target="english", prompts=PROMPTS.translate, room=room)
    with pytest.raises(GenerationError, match="text is empty"):
        summarize.ask(" ", prompts=PROMPTS.summarize, room=room)
    with pytest.raises(GenerationError, match="question is empty"):
        answer.ask("", prompts=PROMPTS.answer, room=room)
    with pytest.raises(GenerationError, match="passage is empty"):
        answer.ask("Why?", prompts=PROMPTS.answer, room=room, context=" ")
    with pytest.raises(ContextError):
        summarize.ask("a b c", prompts=PROMPTS.summarize, room=Room(n_positions=8, count=len))
    with pytest.raises(ContextError):
        answer.ask("a " * 99, prompts=PROMPTS.answer, room=words(60))


def test_a_task_continues_its_prompt_with_its_settings_and_reads_what_came() -> None:
    written: list[tuple[str, Sampling]] = []

    def write(prompt: str, sampling: Sampling) -> str:
        written.append((prompt, sampling))
        return " One. Two. Three. Four.\nFive."

    room, prompts = words(300), replace(PROMPTS, summarize=replace(PROMPTS.summarize, sentences=2))
    asked = summarize.ask("Words.", prompts=prompts.summarize, room=room)
    assert summarize.summarize("Words.", prompts=prompts, room=room, write=write) == "One. Two."
    assert written == [(asked.prompt, asked.sampling)]
