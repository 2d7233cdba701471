"""The account of a corpus for people: as rows for a terminal, and as one self-contained page."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from gpt2.data.corpus.account import KEPT
from gpt2.report import BarChart, Facts, Sample, Section, Table, page

_SHOWN_NAMES = 20
_SHOWN_CLUSTERS = 30
# Reasons that belong to no step: after all steps documents are dropped in this order.
_AT_THE_END = ("duplicate.address", "duplicate.text", "duplicate.near", "sampling.weight")


def funnel(stats: Mapping[str, Any]) -> list[tuple[str, int, int, int]]:
    """(step, documents in, bytes in, documents dropped), in the order of the steps.

    Bytes are of HTML up to the extraction, and of text after it.
    """
    account = stats["account"]
    entered, dropped = account["entered"], account["dropped"]
    by_step: Counter[str] = Counter()
    for reason, (documents, _) in dropped.items():
        by_step[_step_of(reason, entered)] += documents
    rows = [(name, documents, size, by_step[name]) for name, (documents, size) in entered.items()]
    at_the_end = {reason: dropped.get(reason, (0, 0)) for reason in _AT_THE_END}
    documents, size = account["left"]
    for gone, gone_bytes in at_the_end.values():
        documents, size = documents + gone, size + gone_bytes
    for reason, (gone, gone_bytes) in at_the_end.items():
        rows.append((reason, documents, size, gone))
        documents, size = documents - gone, size - gone_bytes
    return rows


def tokens_in(stats: Mapping[str, Any], step: str, size: int) -> int | None:
    """The estimated tokens into a step, by the finished corpus's bytes per token; None while the bytes are of HTML."""
    contents, steps = stats["contents"], list(stats["account"]["entered"])
    has_html = "extraction" in steps and step in steps[: steps.index("extraction") + 1]
    if has_html or not contents["counted_bytes"]:
        return None
    return round(size * contents["counted_tokens"] / contents["counted_bytes"])


def _step_of(reason: str, steps: Mapping[str, Any]) -> str:
    """The step of a reason: a rule set's reason names set and rule, its step set and check."""
    if reason in steps:
        return reason
    head = reason.split(".")[0]
    if head in steps:
        return head
    of_set = [step for step in steps if step.split(".")[0] == head]
    if len(of_set) == 1:
        return of_set[0]
    from gpt2.data.corpus.rule_sets import CHECKS

    rule = reason.removeprefix(f"{head}.")
    return next(
        (step for step in of_set if hasattr(CHECKS[step.split(".")[-1]], rule)), of_set[0] if of_set else reason
    )


def largest(table: Mapping[str, Sequence[int]], count: int = _SHOWN_NAMES) -> list[tuple[str, int, int]]:
    """(name, documents, bytes) of the largest, by bytes."""
    rows = [(name or "(none)", documents, size) for name, (documents, size) in table.items()]
    return sorted(rows, key=lambda row: (-row[2], row[0]))[:count]


def lengths(stats: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Documents by length: from a power of two characters up to the next."""
    found = {int(power): count for power, count in stats["contents"]["lengths"].items()}
    return [
        (f"{1 << power:,} to {(2 << power) - 1:,}", found.get(power, 0))
        for power in range(min(found, default=0), max(found, default=-1) + 1)
    ]


def reasons(stats: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Every reason with documents and bytes, most documents first."""
    rows = [(reason, documents, size) for reason, (documents, size) in stats["account"]["dropped"].items()]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def html_page(stats: Mapping[str, Any], title: str) -> str:
    """The page of a corpus."""
    return page(title, list(_sections(stats)), lead="What went in, what was kept, what was dropped and why.")


def _sections(stats: Mapping[str, Any]) -> Iterator[Section]:
    yield _in_short(stats)
    yield _step_by_step(stats)
    if found := lengths(stats):
        yield Section(title="What is in it", blocks=[*_largest_of_each(stats), _length_chart(found)])
    if stats["clusters"]:
        yield _near_duplicates(stats)
    yield from _handfuls(stats)


def _in_short(stats: Mapping[str, Any]) -> Section:
    contents, account = stats["contents"], stats["account"]
    facts = Facts(
        values={
            "documents": contents["documents"],
            "bytes of text": contents["bytes"],
            "tokens, about": contents["tokens"],
            "read": account["entered"].get("read", [0])[0],
            "not readable": account["damaged"],
        }
    )
    damage = [[what] for what in account["damage"]]
    return Section(
        title="In short", blocks=[facts, *([Table(columns=["not readable"], rows=damage)] if damage else [])]
    )


def _step_by_step(stats: Mapping[str, Any]) -> Section:
    rows = [
        [
            name,
            documents,
            tokens_in(stats, name, size),
            size,
            gone,
            round(100 * gone / documents, 2) if documents else None,
        ]
        for name, documents, size, gone in funnel(stats)
    ]
    return Section(
        title="Step by step",
        blocks=[
            "Bytes are of HTML up to `extraction`, and of text after it.",
            Table(columns=["step", "documents in", "tokens in, about", "bytes in", "dropped", "dropped, %"], rows=rows),
            Table(columns=["reason", "documents", "bytes"], rows=reasons(stats), caption="Dropped, by reason"),
        ],
    )


def _largest_of_each(stats: Mapping[str, Any]) -> list[Table]:
    contents = stats["contents"]
    return [
        Table(columns=[name[:-1], "documents", "bytes"], rows=largest(contents[name]), caption=f"Largest {name}")
        for name in ("sources", "hosts", "languages", "licences")
        if contents[name]
    ]


def _length_chart(found: Sequence[tuple[str, int]]) -> BarChart | Table:
    """Documents by length: a chart, or a table without matplotlib."""
    title = "Documents by length in characters"
    if not find_spec("matplotlib"):
        return Table(columns=["characters", "documents"], rows=found, caption=title)
    names, counts = zip(*found, strict=True)
    return BarChart(title=title, y_label="documents", names=names, series={"documents": counts})


def _near_duplicates(stats: Mapping[str, Any]) -> Section:
    clusters = sorted(((int(size), count) for size, count in stats["clusters"].items()), reverse=True)
    return Section(
        title="Near duplicates",
        blocks=[
            "Of each cluster one document was kept, the one with the most words.",
            Table(columns=["documents in the cluster", "clusters"], rows=clusters[:_SHOWN_CLUSTERS]),
        ],
    )


def _handfuls(stats: Mapping[str, Any]) -> Iterator[Section]:
    """What was dropped for each reason, then what each step kept."""
    samples = stats["account"]["samples"]
    dropped = [reason for reason, _, _ in reasons(stats)]
    for label in [*dropped, *(label for label in samples if label.startswith(KEPT))]:
        handful = samples.get(label)
        if handful:
            title = f"Dropped: {label}" if label in dropped else f"Kept by {label.removeprefix(KEPT)}"
            yield Section(title=title, blocks=[_sample(one) for one in handful])


def _sample(one: Mapping[str, Any]) -> Sample:
    said = f"{one['detail']} · " if one["detail"] else ""
    place = one["address"] or f"{one['source']}: {one['where']}"
    more = " …" if one["characters"] > len(one["text"]) else ""
    return Sample(text=one["text"] + more, caption=f"{said}{place} · {one['characters']:,} characters")
