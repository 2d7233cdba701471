"""The steps of a corpus in their order, the cheap gates first, from its configuration.

address -> characters of the page -> all its words: enough, in a wanted language? -> main text -> length -> language
-> rule sets -> test sets -> masking. Finding duplicates needs the other documents, so it comes after all steps.
"""

from gpt2.data.corpus.config import CorpusConfig
from gpt2.data.corpus.extract import decode_html, extract_main, skim_gate
from gpt2.data.corpus.language import language_gate
from gpt2.data.corpus.page import Dropped, Page, Step
from gpt2.data.corpus.personal import mask_personal
from gpt2.data.corpus.rule_sets import make_steps
from gpt2.data.ngrams import WordHashes, hash_ngrams, words_of
from gpt2.data.overlap import NgramIndex

_WIKIPEDIA = ("wikipedia.org",)


def plan_steps(
    config: CorpusConfig, rules: tuple[str, ...] | None, tests: NgramIndex | None, *, has_html: bool, is_web: bool
) -> list[tuple[str, Step]]:
    """The steps for the documents of one input, each with its name.

    Args:
        config: of the corpus.
        rules: rule sets in place of the configuration's.
        tests: the n-grams of the test sets, if any.
        has_html: whether pages have to be extracted.
        is_web: whether the rules for the web apply.

    Raises:
        SettingError: a rule set cannot be used.
        DataError: a language cannot be identified.
    """
    if rules is None:
        rules = config.rules if is_web else config.text_rules
    by_language = language_gate(config.languages, config.language_confidence)
    steps: list[tuple[str, Step]] = []
    blocked = (*config.block_hosts, *(_WIKIPEDIA if config.drop_wikipedia else ()))
    if blocked:
        steps.append(("address", host_gate(blocked)))
    if has_html:
        # A page's words include its menus, which may be in another language, so be lenient.
        lenient = language_gate(config.languages, config.language_confidence / 2)
        steps += [
            ("html", decode_html),
            ("skim", skim_gate(least_characters=config.min_characters, is_wanted=lenient)),
            ("extraction", extract_main),
        ]
    steps += [("length", length_gate(config.min_characters)), ("language", by_language)]
    for name in rules:
        steps += make_steps(name)
    if tests is not None:
        steps.append(("test_sets", decontamination_gate(tests)))
    if config.mask == "all" or (config.mask == "web" and is_web):
        steps.append(("mask", mask_personal))
    return steps


def host_gate(hosts: tuple[str, ...]) -> Step:
    """Drop pages from these hosts and from hosts below them."""
    endings = tuple(f".{host.lower().strip('.')}" for host in hosts)

    def gate(page: Page) -> Page | Dropped:
        if page.address and f".{page.host}".endswith(endings):
            return Dropped(page=page, reason="address.blocked", detail=page.host)
        return page

    return gate


def length_gate(least_characters: int) -> Step:
    """Drop texts below this many characters, and empty ones in any case."""

    def gate(page: Page) -> Page | Dropped:
        size = len(page.text.strip())
        if size < max(1, least_characters):
            return Dropped(page=page, reason="length", detail=f"{size:,} < {least_characters:,} characters")
        return page

    return gate


def decontamination_gate(tests: NgramIndex) -> Step:
    """Drop documents that share an n-gram with a test set."""
    hashes = WordHashes()

    def gate(page: Page) -> Page | Dropped:
        words = words_of(page.text)
        places, _ = tests.find(hash_ngrams(hashes.of(words), tests.n))
        if places.size:
            first = " ".join(words[int(places[0]) : int(places[0]) + tests.n])
            return Dropped(page=page, reason="test_sets", detail=f"{places.size:,} n-grams, first: {first}")
        return page

    return gate
