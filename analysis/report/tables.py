"""The leaderboard's columns, written once for Markdown, CSV and the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from kvfrontier.analysis.flat import table
from kvfrontier.analysis.frontier import Cost
from kvfrontier.analysis.report.standings import Standing
from kvfrontier.analysis.rows import STATUS_WORDS, Board, Column, Row
from kvfrontier.analysis.stats import MARGIN, Difference
from kvfrontier.analysis.style import growth, number, percent, seconds, size
from kvfrontier.runners.record import Quartiles

#: By task and score: scores without which the main one is not to be read, and which stand beside it.
_BESIDE = {
    ("multi_turn", "first"): "The share of first questions answered exactly.",
    ("multi_turn", "drop"): "By how much the later questions, unknown when the context was compressed, are answered "
    "worse than the first: first less later, with Newcombe's interval of paired proportions.",
}
DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"
#: What each of rows.FLAGS says.
FLAG_WORDS = {
    "needs training": "The model was not trained with this method and cannot use it; its quality is that of a method "
    "that has had no training.",
    "simulated": "The method only masks what it would have dropped; it saves nothing here.",
    "query-aware": "The question was part of what was compressed, so a method that looks at queries knew what would be "
    "asked.",
    "not matched": "A budget was asked for, and the method has no setting that changes its size: it is shown at its "
    "own.",
    "bounded": "Its state stops growing, however much is decoded after the prompt; of others, that comes on top.",
}
Standings = Mapping[tuple[str, int], Standing]


@dataclass(frozen=True)
class Value:
    """What stands in a cell: words, a smaller second line, what it sorts by, and its share of the column for a bar."""

    text: str
    small: str = ""
    key: float | str | None = None
    bar: float | None = None
    missing: bool = False


@dataclass(frozen=True)
class Field:
    """A column: its group and title, what it means, what its second line is, and how it is read off a row."""

    group: str
    title: str
    help: str
    read: Callable[[Row], Value]
    small: str = ""
    flags: tuple[str, ...] = ()
    #: Whether less is better, for which way a click sorts first.
    rising: bool = True
    #: A group whose titles say nothing without it.
    named_by_group: bool = False
    #: Whether the page shows it only where a reader asks for it.
    detail: bool = False

    @property
    def name(self) -> str:
        """The title where no group stands above it."""
        return f"{self.group}: {self.title}" if self.named_by_group else self.title


def fields(board: Board, standings: Standings) -> list[Field]:
    """The columns of a board's leaderboard, after method and context."""
    headlines = board.headlines
    found: list[Field] = []
    if headlines:
        main = headlines[0]
        found.append(
            Field(
                "",
                "front",
                f"Whether no other method has at least this {board.short(main)} in no larger share of state. ● on the "
                "front; ◐ on it, but a smaller method is worse by no more than noise; a dash where another method is "
                "at least as good and no larger. Methods that need training, only simulate their saving, cache "
                "nothing or keep text do not compete (blank).",
                lambda row: _front(standings, main, row),
            )
        )
    for task_hash in dict.fromkeys(column.task_hash for column in board.ordered):
        found += _of_task(board, standings, [c for c in board.ordered if c.task_hash == task_hash])
    largest: dict[int, int] = {}
    for row in board.rows:
        largest[row.context] = max(largest.get(row.context, 0), row.live or 0)
    found += [
        Field("State bytes", "nominal", "What the method claims: its elements alone, without scales, residuals, "
              "metadata and slack.", lambda r: _bytes(r, r.memory.nominal), detail=True),
        Field("State bytes", "analytic", "What its closed form predicts after decoding, payload and slack. Tests "
              "demand that it equals live.", lambda r: _bytes(r, r.analytic), detail=True),
        Field("State bytes", "live", "What the state's tensors held after decoding, in the precision of the run: "
              "payload and slack.",
              lambda r: _bytes(r, r.live, _slack(r), bar=(r.live or 0) / (largest[r.context] or 1)),
              small="the slack (allocated, unused)"),
        Field("State bytes", "bytes read", "Bytes of state touched for each decoded token, all layers, one sequence; "
              "weights not counted.", lambda r: _bytes(r, r.memory.bytes_read), detail=True),
        Field("Peak bytes", "peak", "The most that tensors held at once, weights and state included, over prefill and "
              "decode.", lambda r: _bytes(r, r.memory.peak)),
        Field("Peak bytes", "prefill peak", "The peak while the prompt was read, without the weights.",
              lambda r: _bytes(r, r.over_weights(r.memory.prefill_peak)), detail=True),
        Field("Peak bytes", "decode peak", "The peak while tokens were decoded, without the weights.",
              lambda r: _bytes(r, r.over_weights(r.memory.decode_peak)), detail=True),
        Field("Time", "TTFT", "Time to first token: all chunks of the prompt, the compression at its end, and the "
              "first logits. Median.", lambda r: _seconds(r, r.time.prefill), small="the quartiles"),
        Field("Time", "decode", "Time of one decoded token, of the whole batch. Median.",
              lambda r: _seconds(r, r.time.decode), small="the quartiles"),
        Field("Time", "tokens/s", "Decoded tokens a second, over the whole batch.", lambda r: _speed(r), rising=False),
        Field("Time", "MBU", "Model-bandwidth utilisation: (weights + batch times bytes read) / decode / the bandwidth "
              "that was measured on this device.", lambda r: _mbu(r), rising=False, detail=True),
    ]  # fmt: skip
    if any(row.largest_batch for row in board.rows):
        found.append(
            Field("Time", "tokens/s, largest batch", "Decoded tokens a second at the largest batch of this context "
                  "that fits in memory, each try in a process of its own.", lambda r: _throughput(r),
                  small="that batch, and what the process might take", rising=False)
        )  # fmt: skip
    return found


def explained(columns: Sequence[Field]) -> list[Field]:
    """The columns that need explaining, each once: those that every task has mean the same under each."""
    known: dict[tuple[str, str], Field] = {}
    for field in columns:
        found = known.setdefault((field.title, field.help), field)
        if found.group != field.group:
            known[field.title, field.help] = replace(found, group="", named_by_group=False)
    return list(known.values())


def _of_task(board: Board, standings: Standings, columns: Sequence[Column]) -> list[Field]:
    """The columns of one task: rank by its primary score, its scores, and the share of state that gave them."""
    first = columns[0]
    found = []
    for column in columns:
        if column.primary:
            found.append(
                Field(
                    first.title,
                    "rank",
                    "1 + the number of methods that are significantly better in the task's main score at this context: "
                    "paired bootstrap, 95%, on the same samples.",
                    lambda row, column=column: _rank(standings, column, row),
                    flags=column.flags,
                    named_by_group=True,
                )
            )
        found.append(
            Field(
                first.title,
                column.score,
                _explain(column),
                lambda row, column=column: score_value(row, column, standings),
                small="the 95% interval; floor: dense itself scores less here than the task needs to be read",
                flags=column.flags,
                rising=not column.higher_is_better,
                named_by_group=True,
                detail=not column.primary and (column.task, column.score) not in _BESIDE,
            )
        )
        if column.primary:
            found.append(
                Field(
                    first.title,
                    "Δ dense",
                    "How much better than dense attention on the same samples (paired bootstrap). ≈: so many samples "
                    f"cannot tell it from zero; =: shown to lie within {MARGIN:g} of zero (two one-sided tests at 5%). "
                    "A method loses nothing only where = stands.",
                    lambda row, column=column: _difference(standings, column, row),
                    small="the 95% interval",
                    flags=column.flags,
                    rising=False,
                    named_by_group=True,
                )
            )
    found.append(
        Field(
            first.title,
            "share16",
            "The state that gave these scores, at the end of its prompt (seal), over dense attention's there, both as "
            "if stored at 16 bits. Quantization looks twice as good in a 32-bit run; here it does not. ≈: of the "
            "memory pass, whose prompt is a longer one; older records say no other.",
            lambda row: _share(row, first),
            small="how much it had grown when the last token was scored; bounded methods do not grow",
            flags=first.flags,
            named_by_group=True,
        )
    )
    return found


def _explain(column: Column) -> str:
    what = _BESIDE.get((column.task, column.score)) or {
        "agreement": "The share of scored tokens where the method's most likely next token is dense attention's.",
        "perplexity": "exp of the mean negative log-likelihood of the text's last tokens, scored after the prompt was "
        "compressed.",
        "nll": "Mean negative log-likelihood of the text's last tokens, in nats.",
        "kl": "Mean KL divergence of the method's next-token distribution from dense attention's, in nats.",
        "accuracy": "The share of questions answered exactly.",
        "recall": "The share of the asked-for facts that were named.",
        "later": "The share of the questions after the first one answered exactly.",
    }.get(column.score, f"The score {column.score} of task {column.task}.")
    aware = " The question was part of the compressed prompt (query-aware)." if column.query_aware else ""
    better = "More is better" if column.higher_is_better else "Less is better"
    return f"{what}{aware} {better}. Task {column.title}, hash {column.task_hash[:8]}."


def score_value(row: Row, column: Column, standings: Standings) -> Value:
    """A score with its interval, and whether it is below the floor; or the word for why there is none."""
    answer = row.answers.get(column)
    if answer is None or answer.score is None:
        word = STATUS_WORDS.get(answer.status, answer.status) if answer else DASH
        return Value(word, missing=True)
    score = answer.score
    between = "" if score.low is None else f"{number(score.low)}{DASH}{number(score.high)}"
    standing = standings.get((column.name, row.context))
    below = ["floor"] if standing and standing.floor is not None else []
    return Value(number(score.value), ", ".join([*([between] if between else []), *below]), score.value)


def _difference(standings: Standings, column: Column, row: Row) -> Value:
    standing = standings.get((column.name, row.context))
    found = standing.differences.get(row.method) if standing else None
    if found is None:
        return Value(DASH, missing=True)
    mark = " =" if found.equivalent() else "" if found.separable else " ≈"
    mean = f"{found.mean:+.3f}".replace("-", MINUS) if round(found.mean, 3) else "0"
    between = f"{number(found.low)} to {number(found.high)}".replace("-", MINUS)
    return Value(f"{mean}{mark}", between, found.mean)


def _front(standings: Standings, main: Column, row: Row) -> Value:
    standing = standings.get((main.name, row.context))
    verdict = standing.verdicts["share"].get(row.method) if standing else None
    if verdict is None:
        return Value("", key=3, missing=True)
    if verdict.standing == "front":
        return Value("◐" if verdict.within_noise else "●", key=1 if verdict.within_noise else 0)
    return Value(DASH, key=2) if verdict.standing == "dominated" else Value("", key=3, missing=True)


def _rank(standings: Standings, column: Column, row: Row) -> Value:
    standing = standings.get((column.name, row.context))
    rank = standing.ranks.get(row.method) if standing else None
    return Value(DASH, missing=True) if rank is None else Value(str(rank), key=rank)


def _bytes(row: Row, n: int | None, small: str = "", bar: float | None = None) -> Value:
    if n is None:
        return _absent(row.memory.status)
    return Value(size(n), small, n, bar)


def _slack(row: Row) -> str:
    return f"slack {size(row.memory.live_slack)}" if row.memory.live_slack else ""


def _share(row: Row, column: Column) -> Value:
    """The share that gave a score, where there is one."""
    held = row.held(column)
    if row.score(column) is None or held.share is None:
        return Value(DASH, missing=True)
    grew = row.grew(column)
    return Value(("" if held.own else "≈") + percent(held.share), f"grew {growth(grew)}" if grew else "", held.share)


def _seconds(row: Row, found: Quartiles | None) -> Value:
    if found is None:
        return _absent(row.time.status)
    return Value(seconds(found.median), f"{seconds(found.q1)}{DASH}{seconds(found.q3)}", found.median)


def _mbu(row: Row) -> Value:
    mbu = row.time.mbu
    return _absent(row.time.status) if mbu is None else Value(percent(mbu), key=mbu)


def _speed(row: Row) -> Value:
    speed = row.time.decode_tokens_per_second
    return _absent(row.time.status) if speed is None else Value(number_of_tokens(speed), key=speed)


def _throughput(row: Row) -> Value:
    record = row.largest_batch
    if record is None or record.search is None:
        return Value(DASH, missing=True)
    speed = record.time.decode_tokens_per_second
    if not record.search.found or speed is None:
        return _absent(record.time.status)
    within = f" in {size(record.limit.bytes)}" if record.limit else ""
    return Value(number_of_tokens(speed), f"batch {record.search.found}{within}", speed)


def number_of_tokens(speed: float) -> str:
    """Tokens a second to three figures."""
    return f"{speed:.3g}" if speed < 1000 else f"{speed:,.0f}"


def _absent(status: str) -> Value:
    return Value(DASH if status in ("ok", "skipped") else STATUS_WORDS.get(status, status), missing=True)


# Markdown and CSV


def markdown(found: Sequence[tuple[Board, Standings]], figures: Mapping[int | None, Sequence[tuple[str, str]]]) -> str:
    """The leaderboard in Markdown: for each board what the front says, and a table a context. `figures`: for the
    number of a board, (title, file name) of its figures."""
    out = ["# Leaderboard", ""]
    for i, (board, standings) in enumerate(found):
        setting = board.setting
        out += [f"## {_md(setting.model)} on {_md(setting.machine)}", ""]
        out += [_md(line) for line in machine_lines(board)] + [""]
        out += [f"![{_md(title)}]({name})" for title, name in figures.get(i, ())] + [""]
        columns = fields(board, standings)
        for context in board.contexts:
            out += [f"### {context:,} tokens of context", ""]
            for column in board.headlines:
                standing = standings.get((column.name, context))
                if standing:
                    out += [f"**By {_md(board.short(column))}.** {_md(standing.words)}", ""]
            heads = ["method", "flags", *(f"{f.name}{_flagged(f)}" for f in columns)]
            out += [table_line(heads), table_line(["---", "---", *("---:" for _ in columns)])]
            for row in board.at(context):
                values = [f.read(row) for f in columns]
                texts = [f"{v.text} ({v.small})" if v.small and v.text else v.text for v in values]
                out.append(table_line([row.method, ", ".join(row.flags), *texts]))
            out.append("")
            out += pareto_markdown(board, standings, context)
        out += ["### Did not run", "", *_failures_markdown(board)] if failures(board) else []
        out += ["### What the columns mean", ""]
        out += [f"- **{_md(told.name)}**. {_md(_help(told))}" for told in explained(columns)]
        out += [f"- **{flag}** (flag). {words}" for flag, words in FLAG_WORDS.items()] + [""]
    return "\n".join(out).rstrip() + "\n"


def pareto_markdown(board: Board, standings: Standings, context: int) -> list[str]:
    """Who is on the front at a context, and who dominates the others, by each cost."""
    out: list[str] = []
    for column in board.headlines:
        standing = standings.get((column.name, context))
        if standing is None or standing.floor is not None:
            continue
        out += [f"Pareto front by {_md(board.short(column))}{' (query-aware)' if column.query_aware else ''}:", ""]
        out += [table_line(["method", "flags", *COST_TITLES.values()]), table_line(["---"] * (2 + len(COST_TITLES)))]
        for row in board.at(context):
            if row.score(column) is not None:
                verdicts = [standing.verdicts[cost].get(row.method) for cost in COST_TITLES]
                flags = ", ".join(row.flags_in(column))
                out.append(table_line([row.method, flags, *(v.words if v else DASH for v in verdicts)]))
        out.append("")
    return out


COST_TITLES: dict[Cost, str] = {
    "share": "by share16",
    "share and time": "by share16 and decode",
    "bytes": "by bytes as run",
}


def failures(board: Board) -> list[tuple[Row, str, str, str]]:
    """(row, block, status in words, reason) of everything that was tried and gave no result."""
    found: list[tuple[Row, str, str, str]] = []
    for row in board.rows:
        for name, block in (("memory", row.memory), ("time", row.time)):
            if block.status not in ("ok", "skipped") or (block.status == "skipped" and block.reason):
                found.append((row, name, STATUS_WORDS.get(block.status, block.status), block.reason))
        seen: set[str] = set()
        for column, answer in row.answers.items():
            if answer.status not in ("ok", "skipped") and column.title not in seen:
                seen.add(column.title)
                found.append((row, column.title, STATUS_WORDS.get(answer.status, answer.status), answer.reason))
        for task, answer in row.unanswered.items():
            found.append((row, task, STATUS_WORDS.get(answer.status, answer.status), answer.reason))
    return found


def _failures_markdown(board: Board) -> list[str]:
    out = [table_line(["method", "flags", "context", "pass", "status", "reason"]), table_line(["---"] * 6)]
    for row, name, status, reason in failures(board):
        fits = row.memory.largest_fitting_context
        more = f" (largest context that fitted: {fits:,})" if fits else ""
        out.append(table_line([row.method, ", ".join(row.flags), f"{row.context:,}", name, status, reason + more]))
    return [*out, ""]


def machine_lines(board: Board) -> list[str]:
    """Where and how it was measured, a sentence each."""
    s = board.setting
    environments = sorted({r.environment.kvfrontier for r in board.records})
    days = sorted({r.created[:10] for r in board.records})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    revision = f", revision {s.revision[:12]}" if s.revision else ""
    shapes = sorted(
        {(r.context, r.time.prompt_tokens, r.time.decoded_tokens) for r in board.rows if r.time.prompt_tokens}
    )
    timed = "; ".join(f"{c:,}: {p:,} prompt + {d} decoded tokens" for c, p, d in shapes)
    protocol = ", ".join(f"{k} {v}" for k, v in json.loads(s.protocol).items())
    threads = f", {s.threads} thread{'s' * (s.threads != 1)}" if s.device_kind == "cpu" else ""
    return [
        f"Model {s.model}{revision}, {s.dtype}, batch {s.batch}.",
        f"Measured {when} on {s.device} ({s.device_kind}{threads}; {s.platform}).",
        f"Python {s.python}, torch {s.torch}, transformers {s.transformers}, kvfrontier {', '.join(environments)}.",
        *([f"Bytes and times are of one device and one way of measuring, by context: {timed}."] if timed else []),
        *([f"Protocol: {protocol}."] if protocol else []),
        *(f"{note[0].upper()}{note[1:]}." for note in board.notes),
    ]


def flat(found: Sequence[tuple[Board, Standings]]) -> pl.DataFrame:
    """Every row of every board with raw numbers; after each primary score its rank, its difference from dense and its
    verdicts."""
    wide = table([board for board, _ in found])
    columns = list(dict.fromkeys(c for board, _ in found for c in board.headlines))
    extra: dict[str, list[str | float | None]] = {}
    for column in columns:
        ranks: list[str | float | None] = []
        beside: dict[str, list[str | float | None]] = {"minus dense": [], "low": [], "high": [], "beside dense": []}
        words: dict[Cost, list[str | float | None]] = {cost: [] for cost in COST_TITLES}
        for board, standings in found:
            for row in board.rows:
                standing = standings.get((column.name, row.context))
                ranks.append(standing.ranks.get(row.method) if standing else None)
                difference = standing.differences.get(row.method) if standing else None
                beside["minus dense"].append(difference and difference.mean)
                beside["low"].append(difference and difference.low)
                beside["high"].append(difference and difference.high)
                beside["beside dense"].append(_beside(standing, difference))
                for cost in COST_TITLES:
                    verdict = standing.verdicts[cost].get(row.method) if standing else None
                    words[cost].append(verdict.words if verdict else None)
        extra[f"{column.name}.rank"] = ranks
        for title, listed in beside.items():
            extra[f"{column.name}.{title if 'dense' in title else f'minus dense.{title}'}"] = listed
        extra |= {f"{column.name}.front {COST_TITLES[cost]}": listed for cost, listed in words.items()}
    new = [pl.Series(name, values, dtype=_kind(name)) for name, values in extra.items()]
    return wide.with_columns(new)


def _kind(name: str) -> type[pl.DataType]:
    if name.endswith(".rank"):
        return pl.Int64
    return pl.Float64 if ".minus dense" in name else pl.String


def _beside(standing: Standing | None, difference: Difference | None) -> str | None:
    if standing and standing.floor is not None:
        return "floor"
    if difference is None:
        return None
    return "equal" if difference.equivalent() else "differs" if difference.separable else "not told apart"


def _help(field: Field) -> str:
    return f"{field.help} In parentheses: {field.small}." if field.small else field.help


def _flagged(field: Field) -> str:
    return f" ({', '.join(field.flags)})" if field.flags and "query-aware" not in field.name else ""


def table_line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(_md(cell) for cell in cells) + " |"


def _md(text: str) -> str:
    """Text that means nothing to Markdown or HTML."""
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return " ".join(text.split())
