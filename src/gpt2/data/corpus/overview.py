"""What people look at: the account of a corpus as rows for a terminal, and as one self-contained page."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from gpt2.report import BarChart, Facts, Sample, Section, Table, page

_SHOWN_NAMES = 20


def funnel(stats: Mapping[str, Any]) -> list[tuple[str, int, int, int]]:
    """Step, documents and bytes that went in, documents dropped in it, in the order of the steps.

    Bytes are of HTML up to the extraction, and of text after it.
    """
    account = stats["account"]
    rows = [(name, documents, size, 0) for name, (documents, size) in account["entered"].items()]
    dropped = account["dropped"]
    by_step: dict[str, int] = {}
    for reason, (documents, _) in dropped.items():
        by_step[_step_of(reason, account["entered"])] = by_step.get(_step_of(reason, account["entered"]), 0) + documents
    rows = [(name, documents, size, by_step.get(name, 0)) for name, documents, size, _ in rows]
    documents, size = account["left"]
    for reason in ("sampling.weight", "duplicate.near", "duplicate.text", "duplicate.address"):
        gone, gone_bytes = dropped.get(reason, (0, 0))
        documents, size = documents + gone, size + gone_bytes
    for reason in ("duplicate.address", "duplicate.text", "duplicate.near", "sampling.weight"):
        gone, gone_bytes = dropped.get(reason, (0, 0))
        rows.append((reason, documents, size, gone))
        documents, size = documents - gone, size - gone_bytes
    return rows


def tokens_in(stats: Mapping[str, Any], step: str, size: int) -> int | None:
    """About how many tokens went into a step, at the finished corpus's bytes for each; None while they are of HTML."""
    contents, steps = stats["contents"], list(stats["account"]["entered"])
    has_html = "extraction" in steps and step in steps[: steps.index("extraction") + 1]
    if has_html or not contents["counted_bytes"]:
        return None
    return round(size * contents["counted_tokens"] / contents["counted_bytes"])


def _step_of(reason: str, steps: Mapping[str, Any]) -> str:
    """The step that a reason is of: a rule set's reason names the set and the rule, its step the set and the check."""
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
    """Name, documents and bytes of the largest, by bytes."""
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
    contents, account = stats["contents"], stats["account"]
    yield Section(
        title="In short",
        blocks=[
            Facts(
                values={
                    "documents": contents["documents"],
                    "bytes of text": contents["bytes"],
                    "tokens, about": contents["tokens"],
                    "read": account["entered"].get("read", [0])[0],
                    "not readable": account["damaged"],
                }
            ),
            *([Table(columns=["not readable"], rows=[[what] for what in account["damage"]])] * bool(account["damage"])),
        ],
    )
    yield Section(
        title="Step by step",
        blocks=[
            "Bytes are of HTML up to `extraction`, and of text after it.",
            Table(
                columns=["step", "documents in", "tokens in, about", "bytes in", "dropped", "dropped, %"],
                rows=[
                    [
                        name,
                        documents,
                        tokens_in(stats, name, size),
                        size,
                        gone,
                        round(100 * gone / documents, 2) if documents else None,
                    ]
                    for name, documents, size, gone in funnel(stats)
                ],
            ),
            Table(columns=["reason", "documents", "bytes"], rows=reasons(stats), caption="Dropped, by reason"),
        ],
    )
    tables = [
        Table(columns=[name[:-1], "documents", "bytes"], rows=largest(contents[name]), caption=f"Largest {name}")
        for name in ("sources", "hosts", "languages", "licences")
        if contents[name]
    ]
    found = lengths(stats)
    if found:
        title = "Documents by length in characters"
        bars = (
            BarChart(
                title=title,
                y_label="documents",
                names=[name for name, _ in found],
                series={"documents": [count for _, count in found]},
            )
            if find_spec("matplotlib")
            else Table(columns=["characters", "documents"], rows=found, caption=title)
        )
        yield Section(title="What is in it", blocks=[*tables, bars])
    clusters = sorted(((int(size), count) for size, count in stats["clusters"].items()), reverse=True)
    if clusters:
        yield Section(
            title="Near duplicates",
            blocks=[
                "Of each cluster one document was kept, the one with the most words.",
                Table(columns=["documents in the cluster", "clusters"], rows=[list(row) for row in clusters[:30]]),
            ],
        )
    kept = [label for label in account["samples"] if label.startswith("kept: ")]
    for label in [*(reason for reason, _, _ in reasons(stats)), *kept]:
        handful = account["samples"].get(label, [])
        if handful:
            heading = f"Kept by {label.removeprefix('kept: ')}" if label in kept else f"Dropped: {label}"
            yield Section(title=heading, blocks=[_sample(one) for one in handful])


def _sample(one: Mapping[str, Any]) -> Sample:
    said = f"{one['detail']} · " if one["detail"] else ""
    place = one["address"] or f"{one['source']}: {one['where']}"
    more = " …" if one["characters"] > len(one["text"]) else ""
    return Sample(text=one["text"] + more, caption=f"{said}{place} · {one['characters']:,} characters")
