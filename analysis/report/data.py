"""What the page is told: boards, searches, workloads and methods as plain data, which JSON can hold.

Every number stands in it as it is compared and drawn, and beside it as it is told, so that the page formats nothing
that a table formats. What is not finite is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from kvfrontier.analysis import figures, style
from kvfrontier.analysis.needles import heats
from kvfrontier.analysis.report import tables
from kvfrontier.analysis.report.methods import by_label, described
from kvfrontier.analysis.report.standings import Standing
from kvfrontier.analysis.rows import FAMILIES, FLAGS, Board, Column, Row, canonical
from kvfrontier.analysis.scenarios import COLUMNS as SCENARIO_COLUMNS
from kvfrontier.analysis.scenarios import Scenarios
from kvfrontier.analysis.trained import Track
from kvfrontier.analysis.wall import COLUMNS as WALL_COLUMNS
from kvfrontier.analysis.wall import Wall
from kvfrontier.runners.record import Quartiles

#: Digits of an id or a hash that a reader is shown.
_SHORT = 12
#: What can be drawn against the context: key -> title, unit, what it is.
COSTS: dict[str, tuple[str, str, str]] = {
    "live": ("live bytes of state", "bytes", "What the state's tensors held after decoding, payload and slack."),
    "peak": ("peak bytes beyond the weights", "bytes", "The most that tensors held at once, in prefill or decode."),
    "prefill": ("time to first token", "seconds", "The prompt, seal and the first logits. Bars: quartiles."),
    "decode": ("time of a decoded token", "seconds", "Median, of the whole batch. Bars: quartiles."),
    "read": ("bytes read a token", "bytes", "State that one decoded token touches, of one sequence; weights apart."),
}  # fmt: skip


def site_data(
    found: Sequence[tuple[Board, tables.Standings]],
    source: str,
    walls: Sequence[Wall] = (),
    served: Sequence[Scenarios] = (),
    facts: Mapping[str, Any] | None = None,
    tracks: Sequence[Track] = (),
) -> dict[str, Any]:
    """The page's data. `facts`: what is known of methods beside records, and what a planner says (`kvfrontier report`
    passes it): {"methods": {parameters as canonical JSON: {...}}, "planner": {...}}."""
    facts = facts or {}
    records = [record for board, _ in found for record in board.records]
    records += [one.record for wall in walls for one in wall.methods]
    records += [one.record for workloads in served for one in workloads.measured]
    records += [one for track in tracks for row in track.rows for told in row.records.values() for one in told]
    data = {
        "source": source,
        "records": len(records),
        "families": {family: _look(family) for family in _families(found, walls, tracks)},
        "flags": {flag: {"words": tables.FLAG_WORDS[flag], "mark": figures.MARKS.get(flag, "")} for flag in FLAGS},
        "costs": {key: dict(zip(("title", "unit", "words"), told, strict=True)) for key, told in COSTS.items()},
        "kinds": {kind: {"title": title, "axis": figures.SIZES[kind]} for kind, title in figures.KINDS.items()},
        "verdicts": tables.COST_TITLES,
        "boards": [_board(i, board, standings) for i, (board, standings) in enumerate(found)],
        "walls": [_wall(wall) for wall in walls],
        "scenarios": [_scenario(one) for one in served],
        "trained": [_trained(track) for track in tracks],
        "methods": described([board for board, _ in found], facts.get("methods", {})),
        "planner": by_label([board for board, _ in found], facts.get("planner")),
    }
    return plain(data)


def plain(value: Any) -> Any:
    """The same in what JSON has: no tuples, nothing that is not finite."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _families(
    found: Sequence[tuple[Board, tables.Standings]], walls: Sequence[Wall], tracks: Sequence[Track]
) -> list[str]:
    there = {row.info.family for board, _ in found for row in board.rows}
    there |= {one.record.info.family for wall in walls for one in wall.methods}
    there |= {row.info.family for track in tracks for row in track.rows}
    return sorted(there, key=lambda f: (FAMILIES.index(f) if f in FAMILIES else len(FAMILIES), f))


def _look(family: str) -> dict[str, str]:
    """The name of its colour in the page's style sheet, and its shape."""
    return {"color": family if family in style.LOOKS else "other", "path": style.look(family).path}


def _board(number: int, board: Board, standings: tables.Standings) -> dict[str, Any]:
    fields, setting = tables.fields(board, standings), board.setting
    threads = f", {setting.threads} thread{'s' * (setting.threads != 1)}" if setting.device_kind == "cpu" else ""
    protocol = ", ".join(f"{k} {v}" for k, v in json.loads(setting.protocol).items())
    return {
        "id": f"b{number + 1}",
        "model": setting.model,
        "machine": f"{setting.device}{threads}",
        "protocol": f"{setting.dtype}, batch {setting.batch}; {protocol or 'no protocol'}; torch {setting.torch}, "
        f"transformers {setting.transformers}, Python {setting.python}, {setting.platform}; "
        f"revision {setting.revision[:_SHORT] or 'unknown'}",
        "dtype": setting.dtype,
        "batch": setting.batch,
        "said": tables.machine_lines(board),
        "notes": list(board.notes),
        "records": len(board.records),
        "contexts": board.contexts,
        "fullest": max(board.contexts, key=lambda c: (sum(len(row.answers) for row in board.at(c)), c)),
        "columns": [_column(board, column) for column in board.headlines],
        "fields": [_field(field) for field in fields],
        "rows": [_row(board, row, fields, standings) for row in board.rows],
        "standings": [_standing(standing) for standing in standings.values()],
        "failures": [
            [row.method, row.context, name, status, reason, row.memory.largest_fitting_context]
            for row, name, status, reason in tables.failures(board)
        ],
        "needles": [
            {"column": column.name, "maps": [[heat.row.method, _cells(heat.cells)] for heat in made]}
            for column, made in heats(board).items()
        ],
    }


def _cells(cells: Mapping[tuple[int, float], tuple[float, int]]) -> list[list[float]]:
    return [[context, depth, mean, n] for (context, depth), (mean, n) in cells.items()]


def _column(board: Board, column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "task": column.title,
        "short": board.short(column),
        "words": figures.quality_words(column),
        "axis": figures.score_words(column),
        "hash": column.task_hash[:_SHORT],
        "settings": column.settings,
        "higher": column.higher_is_better,
        "aware": column.query_aware,
        "drawn": any(figures.spot_of(row, column, kind) for row in board.rows for kind in figures.KINDS),
    }


def _field(field: tables.Field) -> dict[str, Any]:
    return {
        "group": field.group,
        "title": field.title,
        "help": field.help + (f" Small: {field.small}." if field.small else ""),
        "flags": field.flags,
        "rising": field.rising,
        "detail": field.detail,
    }


def _row(board: Board, row: Row, fields: Sequence[tables.Field], standings: tables.Standings) -> dict[str, Any]:
    parameters = {k: v for k, v in row.parameters.items() if k != "name"}
    return {
        "method": row.method,
        "family": row.info.family,
        "context": row.context,
        "flags": row.flags,
        "tags": row.info.tags,
        "dense": row.dense,
        "uncached": row.uncached,
        "competes": row.competes,
        "sensitive": row.info.query_sensitive,
        "parameters": canonical(parameters) if parameters else "",
        "budget": row.budget.asked if row.budget else None,
        "matched": row.budget.matched if row.budget else None,
        "share16": row.memory.share16,
        "status": row.status,
        "fits": row.memory.largest_fitting_context,
        "records": [id[:_SHORT] for id in row.records],
        "values": [_value(field.read(row)) for field in fields],
        "points": {column.name: p for column in board.headlines if (p := _point(row, column, standings))},
        "cost": {key: told for key, told in _costs(row).items() if told},
    }


def _value(value: tables.Value) -> list[Any]:
    """[words, small, what it sorts by, bar], cut after the last that says something."""
    found = [value.text, value.small, None if value.missing else value.key, value.bar]
    while len(found) > 1 and found[-1] in (None, ""):
        found.pop()
    return found


def _point(row: Row, column: Column, standings: tables.Standings) -> dict[str, Any] | None:
    """Where a row stands in the fronts of a score, by share and by bytes."""
    spots = {kind: spot for kind in figures.KINDS if (spot := figures.spot_of(row, column, kind))}
    score = row.score(column)
    if not spots or score is None:
        return None
    standing = standings.get((column.name, row.context))
    verdict = standing.verdicts["share"].get(row.method) if standing else None
    below = "below the floor: dense itself cannot do this task here" if standing and standing.floor is not None else ""
    return {
        "y": [score.value, score.low, score.high],
        "x": {kind: [spot.x, spot.grown, spot.aside] for kind, spot in spots.items()},
        "label": figures.label(row, column) + ("" if row.held(column).own else " ≈"),
        "tip": figures.tip(row, column, verdict.words if verdict else below),
    }


def _costs(row: Row) -> dict[str, list[Any] | None]:
    memory, time = row.memory, row.time
    peaks = [p for p in (row.over_weights(memory.prefill_peak), row.over_weights(memory.decode_peak)) if p is not None]
    return {
        "live": _bytes(row.live),
        "peak": _bytes(max(peaks) if peaks else None),
        "prefill": _seconds(time.prefill),
        "decode": _seconds(time.decode),
        "read": _bytes(memory.bytes_read),
    }


def _bytes(n: int | None) -> list[Any] | None:
    return [n, style.size(n)] if n else None


def _seconds(found: Quartiles | None) -> list[Any] | None:
    return [found.median, style.seconds(found.median), found.q1, found.q3] if found else None


def _standing(standing: Standing) -> dict[str, Any]:
    return {
        "column": standing.column.name,
        "context": standing.context,
        "words": standing.words,
        "floor": standing.floor,
        "verdicts": {
            cost: {method: [verdict.standing, verdict.words] for method, verdict in found.items()}
            for cost, found in standing.verdicts.items()
        },
        "differences": {
            method: [d.mean, d.low, d.high, "equal" if d.equivalent() else "differs" if d.separable else "unclear"]
            for method, d in standing.differences.items()
        },
        "ranks": standing.ranks,
    }


def _wall(wall: Wall) -> dict[str, Any]:
    return {
        "model": wall.setting.model,
        "machine": wall.setting.machine,
        "words": wall.words,
        "limit": limit.bytes if (limit := wall.methods[0].record.limit) else None,
        "heads": WALL_COLUMNS,
        "rows": wall.rows,
        "series": [
            {
                "method": one.method,
                "family": one.record.info.family,
                "competes": not (one.record.info.needs_training or one.record.info.simulated),
                "hit": one.hit,
                "points": [
                    {"context": p.size, "cost": dict(_probe(p.state, p.prefill, p.decode, p.bytes_read))}
                    for p in one.probes
                ],
            }
            for one in wall.methods
            if one.probes
        ],
    }


def _probe(
    state: int | None, prefill: float | None, decode: float | None, read: int | None
) -> list[tuple[str, list[Any]]]:
    sizes = [("live", state, style.size), ("prefill", prefill, style.seconds), ("decode", decode, style.seconds),
             ("read", read, style.size)]  # fmt: skip
    return [(key, [value, told(value)]) for key, value, told in sizes if value]


def _scenario(one: Scenarios) -> dict[str, Any]:
    return {
        "model": one.setting.model,
        "machine": one.setting.machine,
        "words": list(one.words),
        "heads": SCENARIO_COLUMNS,
        "rows": one.rows,
    }


def _trained(track: Track) -> dict[str, Any]:
    """A track's table, and its rows as points: mean score over the tests against measured bytes of state."""
    heads, *rows = track.lines
    return {
        "title": f"{track.task}, {track.model}",
        "machine": track.setting.machine,
        "primary": track.primary,
        "higher": track.higher_is_better,
        "heads": heads,
        "rows": rows,
        "points": [
            {
                "method": row.method,
                "family": row.info.family,
                "x": row.state,
                "y": mean,
                "tip": f"{row.method}, {row.model}\n{track.primary} {style.number(mean)}\n{style.size(row.state)}",
            }
            for row in track.rows
            if row.state and (mean := row.mean(track.tests)) is not None
        ],
    }
