"""What allocators make of a memory, for a person to read, or for a program."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kvfrontier.runners.allocators import published, words
from kvfrontier.runners.allocators.rows import row
from kvfrontier.runners.plan.show import size
from kvfrontier.runners.progress import working
from kvfrontier.runners.tables import show_table

#: Parts of the memory; they sum to 100%.
PARTS = ("tokens", "reserved", "internal", "external", "idle")
COLUMNS = (
    "policy", *PARTS, "fit at once", "largest batch", "mean batch", "queued", "rejected", "preempted", "steps",
)  # fmt: skip


def allocate(asked: Sequence[str], *, as_json: bool) -> None:
    """Print a row for each case. Raises UsageError as `words.read` and `Traffic.requests` do."""
    rows = []
    with working("allocating") as say:
        for case in words.read(asked):
            say(f"{case.policy} {case.traffic.lengths}")
            rows.append(row(case))
    if as_json:
        print(json.dumps(rows))
    else:
        show_rows(rows)


def show_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """A table for each memory and traffic, and below it the notes."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for one in rows:
        groups.setdefault(_title(one), []).append(one)
    for title, members in groups.items():
        show_table(title, COLUMNS, map(_cells, members), numbers=COLUMNS[1:])
        for note in dict.fromkeys(one["note"] for one in members if one["note"]):
            print(note)
    print(
        "Means over the steps at which a request waited, or, where idle is not 0, over all: keys and values that are "
        "there; room for tokens that come; room that is never filled; free but of no use to who waits; free."
    )


def _title(one: Mapping[str, Any]) -> str:
    traffic = one["traffic"]
    lengths = traffic["lengths"]
    where = f"{size(one['memory_bytes'])}{' of ' + one['device'] if one['device'] else ''}"
    told = (
        lengths,
        f"prefix {traffic['prefix']} in {traffic['groups']} groups" if traffic["prefix"] else "",
        traffic["arrivals"] or ("" if lengths.endswith(".csv") else "at_once"),
        f"seed {traffic['seed']}",
    )
    return (
        f"{one['model']}, {one['dtype']}, {where}: {one['capacity_tokens']:,} tokens; "
        f"requests: {one['requests']:,} ({', '.join(filter(None, told))})"
    )


def _cells(one: Mapping[str, Any]) -> tuple[str, ...]:
    if one["policy"] == "paged":
        name = f"paged, {one['block']} a block" + ("" if one["sharing"] else ", unshared")
    else:
        name = f"{one['policy']}, {one['place']}"
    fits_all = 0 < one["fit_at_once"] == one["requests"] - one["rejected"]
    return (
        name,
        *(f"{one[f'{part}_share']:.1%}" for part in PARTS),
        "all" if fits_all else f"{one['fit_at_once']:,}",
        f"{one['largest_batch']:,}",
        f"{one['mean_batch']:.1f}",
        *(f"{one[key]:,}" for key in ("queued", "rejected", "preempted", "steps")),
    )


def figure(name: str, changed: Sequence[str], *, as_json: bool) -> None:
    """Print a published figure beside ours, the verdict and what is assumed. Raises UsageError as `published` does."""
    asked = published.figure(name)
    with working(f"simulating {name}"):
        compared = published.compare(asked, changed)
    verdict = published.verdict(compared, asked.tolerance)
    rule = published.RULE.format(tolerance=asked.tolerance)
    if as_json:
        rows = [{**one.model_dump(), "mean": one.mean, "is_near": one.is_near(asked.tolerance)} for one in compared]
        print(json.dumps({**asked.model_dump(exclude={"published"}), "changed": list(changed), "rows": rows,
                          "rule": rule, "verdict": verdict}))  # fmt: skip
        return
    columns = ("policy", "published", "ours", "lowest", "highest", f"within {asked.tolerance:.0%}")
    lines = [
        (one.policy, f"{one.published:.1%}", f"{one.mean:.1%}", f"{min(one.ours):.1%}", f"{max(one.ours):.1%}",
         "yes" if one.is_near(asked.tolerance) else "no")
        for one in compared
    ]  # fmt: skip
    show_table(f"{asked.source}: {asked.claim}", columns, lines, numbers=columns[1:5])
    print(f"Verdict, from {len(asked.seeds)} seeds: {verdict} ({rule}).")
    if changed:
        print(f"Changed here: {' '.join(changed)}")
    print("Assumed:", *(f"  - {one}" for one in asked.assumptions), sep="\n")
