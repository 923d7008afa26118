"""The command `kvfrontier trace`: what memory holds, step by step, while a method reads a prompt and decodes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from kvfrontier.analysis import style
from kvfrontier.analysis import trace as drawn
from kvfrontier.analysis.report.pictures import Picture
from kvfrontier.analysis.trace import BANDS, Step, Trace
from kvfrontier.methods import registry
from kvfrontier.runners import cell as cells
from kvfrontier.runners import environment
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.meter import head_of
from kvfrontier.runners.peak import track
from kvfrontier.runners.plan import words as plan_words
from kvfrontier.runners.progress import working
from kvfrontier.runners.record import Cell, check_writable
from kvfrontier.runners.session import Session
from kvfrontier.runners.tables import show_table

#: Lines of the table: more steps of a phase are shown by those that say most.
_LINES = 16


def show(words: Sequence[str], output: Path | None, *, as_json: bool) -> None:
    """Trace the cell that the words ask for and print it; with `output`, write trace.json, trace.csv, trace.png and
    trace.svg there. Raises UsageError where the words ask for nothing that can be run."""
    folder = check_writable(output) if output is not None else None
    cell, model = read(words)
    with working("tracing") as say:
        try:
            found = measure(cell, model, say)
        except (ValueError, ImportError) as error:  # the method cannot serve the model, or the text
            raise UsageError(str(error)) from error
    written = [] if folder is None else write(found, folder)
    if as_json:
        print(found.model_dump_json())
        return
    columns = ("step", "phase", "tokens", "peak", *(name for name, _ in _shown(found).values()), "at rest")
    show_table(None, columns, _lines(found), numbers=(*columns[:1], *columns[2:]))
    print(drawn.words(found))
    for path in written:
        print(path)


def read(words: Sequence[str]) -> tuple[Cell, dict[str, Any]]:
    """The cell, and its model's keys. Keys are those of `kvfrontier run`, and chunk and new. Raises UsageError."""
    for word in words:
        if not word.partition("=")[1]:
            raise UsageError(f"{word!r} is not KEY=VALUE; write for example method=window context=2048")
    pairs = (word.partition("=") for word in words)
    config = plan_words.composer()([f"{plan_words.FOR_RUN.get(key, key)}={value}" for key, _, value in pairs]).config
    cell = cells.describe(config)
    if cell.workload:
        raise UsageError("a trace is of one batch, read and decoded; leave workload= away and give context= and batch=")
    if cell.protocol["decode_tokens"] >= cell.context:
        raise UsageError(f"new={cell.protocol['decode_tokens']} leaves nothing of context {cell.context} to prefill")
    return cell, config["model"]


def measure(cell: Cell, model: dict[str, Any], say: Callable[[str], None] = lambda _: None) -> Trace:
    """Every step of the cell's memory pass. It reads random tokens, as the meter does."""
    loaded = cells.load(cell, model)
    new = cell.protocol["decode_tokens"]
    ids = cells.random_ids(cell, loaded)
    prompt, decode = ids[:, :-new], ids[:, -new:]
    gc.collect()
    tensors = list(chain(loaded.model.parameters(), loaded.model.buffers()))
    steps: list[Step] = []
    with (
        track(loaded.device, external=tensors) as memory,
        Session(loaded.model, registry.build(cell.method)) as session,
    ):
        memory.tell_apart(lambda: session.state, head_of(loaded.model))

        def note(phase: drawn.Phase) -> None:
            say(f"{phase} {session.n_tokens}")
            parts = {"peak": memory.peak_parts, "rest": memory.current_parts}
            steps.append(Step(phase=phase, tokens=session.n_tokens, **parts))
            memory.reset_peak()

        memory.reset_peak()
        for piece in prompt.split(cell.protocol["chunk"] or prompt.shape[1], 1):
            session.prefill(piece, seal=False)
            note("prefill")
        session.seal()
        note("seal")
        for token in decode.split(1, 1):
            session.decode(token)
            note("decode")
    here = environment.describe(cell.device)
    return Trace(cell=cell, label=cells.method_label(cell), environment=here, steps=tuple(steps))


def write(found: Trace, folder: Path) -> list[Path]:
    """The data as JSON and CSV, and the picture as PNG and SVG."""
    files = {"trace.json": found.model_dump_json(indent=1).encode(), "trace.csv": drawn.write_csv(found).encode()}
    picture = Picture("trace", f"memory, step by step: {found.label}", None, lambda: drawn.draw(found))
    files |= {f"trace.{kind}": picture.file(kind) for kind in ("png", "svg")}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def _shown(found: Trace) -> dict[str, tuple[str, str]]:
    return {part: band for part, band in BANDS.items() if any(getattr(s.peak, part) for s in found.steps)}


def _lines(found: Trace) -> Iterator[list[str]]:
    keep = _worth_a_line(found)
    for i, step in enumerate(found.steps):
        if i in keep:
            marked = f"{style.size(found.bytes(step.peak))}{' *' if i == found.highest else ''}"
            made = (style.size(getattr(step.peak, part)) for part in _shown(found))
            yield [str(i), step.phase, str(step.tokens), marked, *made, style.size(found.bytes(step.rest))]


def _worth_a_line(found: Trace) -> set[int]:
    """The first and last step of each phase, the peak, and others at even distances."""
    phases = [step.phase for step in found.steps]
    edges = {i for i in range(len(phases)) if i in (0, len(phases) - 1) or len(set(phases[i - 1 : i + 2])) > 1}
    stride = max(1, -(-len(phases) // _LINES))
    return {found.highest} | edges | set(range(0, len(phases), stride))
