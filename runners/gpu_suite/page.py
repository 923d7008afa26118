"""The suite on one page: what was to be reached, then what was measured, part by part. Loads no torch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kvfrontier.runners.gpu_suite.journal import Entry

Entries = Mapping[str, Entry]


def write(entries: Iterable[Entry], target: Path) -> str:
    """The page's text, which is written to `target` as well."""
    known = {entry.name: entry for entry in entries}
    here = known.get("suite/environment")
    about = here.values if here else {}
    lines = ["# On a GPU", ""]
    if about:
        there = [f"{name} {version}" for name, version in about.get("packages", {}).items() if version]
        versions = f"torch {about['torch']}, transformers {about['transformers']}"
        moved = f"A copy moves {about['copy_bandwidth'] / 1e9:,.0f} GB/s."
        lines += [f"{about['device_name']}, {versions}; {', '.join(there) or 'none of the extras'}. {moved}", ""]
    lines += _goals(known) + _counts(known) + _curves(known) + _families(known) + _walls(known) + _rest(known)
    text = "\n".join(lines) + "\n"
    target.write_text(text, encoding="utf-8")
    return text


# ---------------------------------------------------------------------------------------------- targets


def _best(entry: Entry | None) -> float | None:
    """Seconds of a curve's point: the faster of launched and graphed."""
    if entry is None or entry.status != "ok":
        return None
    found = [entry.values[key]["median"] for key in ("seconds", "graph_seconds") if key in entry.values]
    return min(found)


def _ratio(known: Entries, one: str, other: str) -> float | None:
    a, b = _best(known.get(one)), _best(known.get(other))
    return None if a is None or b is None else a / b


def exponent(points: Sequence[tuple[int, float]]) -> float | None:
    """Slope of log seconds over log tokens, least squares; None for fewer than two points."""
    if len(points) < 2:
        return None
    x, y = ([math.log(value) for value in column] for column in zip(*points, strict=True))
    mx, my = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mx) ** 2 for a in x)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / spread if spread else None


def goals(known: Entries) -> list[tuple[str, float | None, float, bool]]:
    """What was to be reached: claim, what was found, the goal, and whether the goal is the least (or the most)."""
    at, far = "32768", "131072"
    flash = [f"curves/decode/{name}/{far}" for name in ("flash_attn", "flash_attn_3")]
    flash = [name for name in flash if _best(known.get(name))]
    theirs = min(flash, key=lambda name: _best(known[name]) or math.inf, default="")
    ours = f"curves/decode/sdpa/{far}"
    dense = ("sdpa", "sdpa_cudnn", "flash_attn", "flash_attn_3", "flash_attn_4", "xformers", "triton")
    served = [name for name in (f"curves/decode/{one}/{at}" for one in dense) if _best(known.get(name))]
    mbu = max((known[name].values["mbu"] for name in served), default=None)
    linear = [
        (int(name.split("/")[2]), entry.values["ttft"]) for name, entry in known.items()
        if name.startswith("families/linear, fla/") and entry.status == "ok" and entry.values["ttft"]
    ]  # fmt: skip
    long = [point for point in sorted(linear) if point[0] >= 1 << 15]
    faster = _ratio(known, ours, f"curves/decode/int4 kernel/{far}")
    return [
        ("dense decode at 131,072 tokens, over flash-attn's", _ratio(known, ours, theirs), 1.1, False),
        ("decode over int4 at 131,072 tokens: how many times faster than dense", faster, 2.5, True),
        ("share of the bandwidth of a dense decode at 32,768 tokens, batch 1", mbu, 0.7, True),
        ("exponent of linear attention's prefill over the context, from 32,768 tokens", exponent(long), 1.05, False),
    ]  # fmt: skip


def _goals(known: Entries) -> list[str]:
    lines = ["| To reach | Found | Goal | Reached |", "|---|--:|--:|---|"]
    for claim, found, goal, least in goals(known):
        sign = ">=" if least else "<="
        told = "not measured" if found is None else f"{found:.2f}"
        reached = "" if found is None else "yes" if (found >= goal if least else found <= goal) else "no"
        lines.append(f"| {claim} | {told} | {sign} {goal:g} | {reached} |")
    return [*lines, ""]


# ---------------------------------------------------------------------------------------------- parts


def _counts(known: Entries) -> list[str]:
    parts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for entry in known.values():
        if entry.part != "suite":
            parts[entry.part][entry.status] += 1
    lines = ["## What was asked", "", "| Part | Items | |", "|---|--:|---|"]
    for part, found in parts.items():
        told = ", ".join(f"{n} {status}" for status, n in sorted(found.items()))
        lines.append(f"| {part} | {sum(found.values())} | {told} |")
    return [*lines, ""]


def _curves(known: Entries) -> list[str]:
    lines: list[str] = []
    for what, unit in (("decode", "microseconds of one token, one layer"), ("prefill", "milliseconds of a last chunk")):
        table: dict[str, dict[int, Entry]] = defaultdict(dict)
        for name, entry in known.items():
            if name.startswith(f"curves/{what}/") and entry.status in ("ok", "oom"):
                who, context = name.split("/", 2)[2].rsplit("/", 1)
                table[who][int(context)] = entry
        if not table:
            continue
        factor = 1e6 if what == "decode" else 1e3

        def cell(entry: Entry | None, factor: float = factor) -> str:
            seconds = _best(entry)
            return "" if entry is None else entry.status if seconds is None else f"{seconds * factor:,.1f}"

        lines += _table(f"{what.capitalize()}: {unit}, over the context", table, cell)
    return lines


def _families(known: Entries) -> list[str]:
    lines: list[str] = []
    for key, title, told in (
        ("decode", "Families: milliseconds of a decoded token, four layers", lambda x: f"{x * 1e3:,.2f}"),
        ("ttft", "Families: seconds to the first token, four layers", lambda x: f"{x:,.2f}"),
        ("state", "Families: MiB of state, four layers", lambda x: f"{x / 2**20:,.1f}"),
    ):
        table: dict[str, dict[int, Entry]] = defaultdict(dict)
        for name, entry in known.items():
            if name.startswith("families/") and entry.status in ("ok", "oom"):
                table[name.split("/")[1]][int(name.rsplit("/", 1)[1])] = entry

        def cell(entry: Entry | None, key: str = key, told: Callable[[float], str] = told) -> str:
            if entry is None or entry.status != "ok":
                return "" if entry is None else entry.status
            value = entry.values.get(key)
            return "" if value is None else told(value)

        if table:
            lines += _table(title, table, cell)
    return lines


def _table(
    title: str, rows: Mapping[str, Mapping[int, Entry]], cell: Callable[[Entry | None], str]
) -> list[str]:  # fmt: skip
    contexts = sorted({context for row in rows.values() for context in row})
    lines = [f"## {title}", "", f"| | {' | '.join(f'{n:,}' for n in contexts)} |", "|---|" + "--:|" * len(contexts)]
    lines += [f"| {name} | {' | '.join(cell(row.get(n)) for n in contexts)} |" for name, row in rows.items()]
    return [*lines, ""]


def _walls(known: Entries) -> list[str]:
    found = [(name.split("/", 1)[1], e) for name, e in known.items() if e.part == "walls" and e.status == "ok"]
    if not found:
        return []
    lines = ["## The wall: tokens of one sequence beside a whole model's weights", "", "| | Tokens | State, GiB |",
             "|---|--:|--:|"]  # fmt: skip
    for name, entry in found:
        lines.append(f"| {name} | {entry.values['tokens']:,} | {entry.values['state'] / 2**30:.1f} |")
    return [*lines, ""]


def _rest(known: Entries) -> list[str]:
    """Errors of checks, scores, profiles, and whatever did not end well."""
    lines: list[str] = []
    worst = {n: e.values["largest_error"] for n, e in known.items() if e.status == "ok" and "largest_error" in e.values}
    if worst:
        lines += ["## Largest errors against eager", "", "| | Error |", "|---|--:|"]
        lines += [f"| {name.split('/', 1)[1]} | {error:.1e} |" for name, error in worst.items()] + [""]
    scored = {n: e.values for n, e in known.items() if e.part == "quality" and e.status == "ok"}
    if scored:
        lines += ["## Quality of the embedded model, half precision", "", "| | |", "|---|---|"]
        for name, tasks in scored.items():
            told = "; ".join(
                f"{task}: {', '.join(f'{k} {v:.3f}' for k, v in scores.items())}" for task, scores in tasks.items()
            )
            lines.append(f"| {name.split('/', 1)[1]} | {told} |")
        lines.append("")
    for name, entry in known.items():
        if entry.part == "traces" and entry.status == "ok":
            lines += [f"## {name}: {entry.values['method']} at {entry.values['context']:,}", ""]
            longest = entry.values["longest"]
            lines += [f"- {one['us']:,.0f} us in {one['calls']} calls: `{one['name']}`" for one in longest]
            lines.append("")
    wrong = [e for e in known.values() if e.status not in ("ok", "oom")]
    if wrong:
        lines += ["## What did not run", "", "| | | |", "|---|---|---|"]
        lines += [f"| {e.name} | {e.status} | {_plain(e.reason)} |" for e in wrong] + [""]
    return lines


def _plain(value: Any) -> str:
    return str(value).replace("|", "\\|")[:200]
