"""Workloads side by side: what the same tokens cost as many short requests and as one long one, and what sharing,
padding and unused memory come to. Every sentence is computed from records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from kvfrontier.analysis.boards import labels
from kvfrontier.analysis.rows import FAMILIES, STATUS_WORDS, Setting, canonical
from kvfrontier.analysis.style import size
from kvfrontier.runners.record import Memory, Parts, Record

COLUMNS = (
    "workload", "method", "requests", "longest", "state", "unused", "prefill peak", "activations in it", "decode peak",
    "read by a token",
)  # fmt: skip
_EXPLAINED = (
    "Requests that are there at once. State: what it must hold at the end, what forks share counted once. Peaks are "
    "beyond the weights."
)
#: Payloads that are within this of each other are called equal: block tables and scales are not the tokens'.
_EQUAL = 0.005


@dataclass(frozen=True)
class Measured:
    """One workload by one method."""

    method: str
    record: Record

    @property
    def workload(self) -> str:
        return str((self.record.cell.workload or {})["name"])

    @property
    def memory(self) -> Memory:
        return self.record.memory

    @property
    def payload(self) -> int:
        return self.memory.live_payload or 0

    @property
    def slack(self) -> int:
        return self.memory.live_slack or 0

    @property
    def prefill(self) -> Parts:
        return self.memory.prefill_parts or Parts()

    def beyond_weights(self, peak: int | None) -> int:
        """Of a peak, what is not weights."""
        return (peak or 0) - (self.memory.weights or 0)


@dataclass(frozen=True)
class Scenarios:
    """The workloads that were measured on one machine, by workload and method."""

    setting: Setting
    measured: tuple[Measured, ...]

    @cached_property
    def _by_workload(self) -> dict[str, dict[str, Measured]]:
        found: dict[str, dict[str, Measured]] = defaultdict(dict)
        for one in self.measured:
            if one.memory.status == "ok":
                found[one.workload][one.method] = one
        return found

    def _of(self, workload: str) -> Mapping[str, Measured]:
        return self._by_workload.get(workload, {})

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """A line of text for each, under COLUMNS."""
        return [_row(one) for one in self.measured]

    @property
    def words(self) -> list[str]:
        """What differs between workloads and methods, and what does not."""
        found = (self._cache(), self._prefill(), self._longest(), self._sharing(), self._padding(), self._unused())
        return [sentence for sentence in found if sentence]

    def _pairs(self) -> dict[str, tuple[Measured, Measured]]:
        """By method, the short batch and the one long text."""
        short, long = self._of("batch_short"), self._of("single_long")
        return {method: (short[method], long[method]) for method in short if method in long}

    def _cache(self) -> str:
        pairs = self._pairs()
        if not pairs:
            return ""
        equal = {m: a for m, (a, b) in pairs.items() if abs(a.payload - b.payload) <= _EQUAL * b.payload}
        said = []
        if equal:
            held = ", ".join(f"{method} {size(one.payload)}" for method, one in equal.items())
            said.append(
                f"Where each token is kept, as many tokens are as many bytes, in one row or in {_rows(pairs)}: {held}"
            )
        for method, (a, b) in pairs.items():
            rows = a.record.cell.batch
            sizes = f"{size(a.payload)} in {rows} rows, {size(b.payload)} in one"
            if abs(a.payload - rows * b.payload) <= _EQUAL * a.payload:
                said.append(f"{method} holds as much for each row whatever its length: {sizes}")
            elif method not in equal:
                said.append(f"{method} holds some of each row apart: {sizes}")
        return "; ".join(said) + "."

    def _prefill(self) -> str:
        pairs = self._pairs()
        if not pairs:
            return ""
        peaks = {m: [one.beyond_weights(one.memory.prefill_peak) for one in pair] for m, pair in pairs.items()}
        said = [
            f"{method} {size(peaks[method][0])} (activations {size(a.prefill.activations)}) against "
            f"{size(peaks[method][1])} ({size(b.prefill.activations)})"
            for method, (a, b) in pairs.items()
        ]
        return (
            "The peak of prefill differs, for a chunk is as many tokens of every row; beyond the weights, "
            f"{_rows(pairs)} short requests against one long one: {'; '.join(said)}."
        )

    def _longest(self) -> str:
        pairs = self._pairs()
        if not pairs:
            return ""
        said = [
            f"{method} {size(a.memory.bytes_read)} against {size(b.memory.bytes_read)}"
            for method, (a, b) in pairs.items()
        ]
        return f"A decoded token reads its own row, in the short batch against the long text: {'; '.join(said)}."

    def _sharing(self) -> str:
        shared = {w: of for w, of in self._by_workload.items() if any(one.memory.shared_tokens for one in of.values())}
        said = []
        for workload, of in shared.items():
            tokens = next(iter(of.values())).memory.shared_tokens or 0
            # What the rows would hold apart is what each of them reads.
            alone = {m: one.record.cell.batch * (one.memory.bytes_read or 0) for m, one in of.items()}
            once = [m for m, one in of.items() if one.payload < (1 - _EQUAL) * alone[m]]
            held = [f"{m} {size(of[m].payload)}, where rows apart would hold {size(alone[m])}" for m in once]
            copied = [f"{m} {size(one.payload)}" for m, one in of.items() if m not in once]
            said.append(
                f"In {workload} {tokens:,} tokens are of a prefix that another request has too; forks hold it once "
                f"with {', '.join(held) or 'none of the methods'}; they copy what there is of it with "
                f"{', '.join(copied) or 'none'}"
            )
        return "; ".join(said) + "." if said else ""

    def _padding(self) -> str:
        said = []
        for workload, of in self._by_workload.items():
            one = next(iter(of.values()))
            padding, prompt = one.memory.padding_tokens or 0, one.memory.prompt_tokens
            if padding:
                layout = (one.record.cell.workload or {}).get("layout")
                verb = "are spared" if layout == "packed" else "are worked on"
                said.append(
                    f"{workload}: prompts of {prompt:,} tokens, and {padding:,} of padding that {verb} where rows are "
                    f"{layout}; none of it is held"
                )
        return f"Rows of unequal length: {'; '.join(said)}." if said else ""

    def _unused(self) -> str:
        said = []
        for method in dict.fromkeys(one.method for one in self.measured):
            own = [of[method] for of in self._by_workload.values() if method in of]
            worst = max(own, key=lambda one: one.slack / max(1, one.payload + one.slack), default=None)
            if worst is not None and worst.slack:
                share = worst.slack / (worst.payload + worst.slack)
                said.append(f"{method} at most {share:.1%} ({size(worst.slack)}, in {worst.workload})")
            elif worst is not None:
                said.append(f"{method} none")
        return f"Allocated and unused at the end: {'; '.join(said)}." if said else ""

    @property
    def markdown(self) -> list[str]:
        """A section of the leaderboard."""
        head = [" | ".join(COLUMNS), " | ".join(["---", "---", *["---:"] * (len(COLUMNS) - 2)])]
        return [
            f"## Workloads: {self.setting.model} on {self.setting.machine}",
            "",
            *(f"- {sentence}" for sentence in self.words),
            "",
            *(f"| {line} |" for line in (*head, *(" | ".join(row) for row in self.rows))),
            "",
            _EXPLAINED,
            "",
        ]


def scenarios(records: Iterable[Record]) -> list[Scenarios]:
    """The workloads among records, the newest of each method; the machine with most of them first."""
    found: dict[Setting, list[Record]] = defaultdict(list)
    for record in sorted((r for r in records if r.cell.workload), key=lambda r: (r.created, r.id)):
        # A workload has a batch of its own; the machine and the model are what must be the same.
        found[Setting.of(record.model_copy(update={"cell": record.cell.model_copy(update={"batch": 1})}))].append(
            record
        )
    made = [Scenarios(setting, _newest(group)) for setting, group in found.items()]
    return sorted(made, key=lambda one: (-len(one.measured), one.setting))


def _rows(pairs: Mapping[str, tuple[Measured, Measured]]) -> str:
    """How many rows the short batch has."""
    return " or ".join(str(n) for n in sorted({short.record.cell.batch for short, _ in pairs.values()}))


def _newest(records: list[Record]) -> tuple[Measured, ...]:
    names = labels(records)
    newest = {(canonical(r.cell.workload), canonical(r.cell.asked)): r for r in records}
    found = [Measured(names[method], record) for (_, method), record in newest.items()]
    order = list(dict.fromkeys(one.workload for one in found))

    def place(one: Measured) -> tuple[int, int, str]:
        family = one.record.info.family
        return order.index(one.workload), FAMILIES.index(family) if family in FAMILIES else len(FAMILIES), one.method

    return tuple(sorted(found, key=place))


def _row(one: Measured) -> tuple[str, ...]:
    memory, cell = one.memory, one.record.cell
    asked = (one.workload, one.method, str(cell.batch), f"{cell.context:,}")
    if memory.status != "ok":
        return (*asked, STATUS_WORDS.get(memory.status, memory.status), *[""] * 5)
    return (
        *asked,
        size(one.payload),
        size(one.slack),
        size(one.beyond_weights(memory.prefill_peak)),
        size(one.prefill.activations),
        size(one.beyond_weights(memory.decode_peak)),
        size(memory.bytes_read),
    )
