"""The record: one line of JSON that says what was run, on what, and what came of it.

A record has three blocks, `quality`, `memory` and `time`, measured in separate passes, each with a status of its own.
This module holds the schema and the append-only files; it loads no torch, since analysis reads records with it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvfrontier.runners.errors import UsageError

#: Raised whenever a reader of older records would misread newer ones.
SCHEMA_VERSION = 3

Status = Literal["ok", "oom", "infeasible", "failed", "skipped"]


def outcome(blocks: Mapping[str, Status], search: bool, workload: bool, timed: bool) -> Status:
    """A record's status: the worst of its blocks (quality, memory, time) that were asked for; a search has no quality,
    of a workload memory alone is measured, and without repetitions nothing is timed."""
    asked = ("memory",) if workload else ("memory", *["quality"] * (not search), *["time"] * timed)
    order: tuple[Status, ...] = ("failed", "oom", "infeasible", "skipped", "ok")
    found: list[Status] = [blocks[name] for name in asked]
    return min(found, key=order.index)


class Block(BaseModel):
    """Strict base: unknown keys are an error, so that nothing is lost in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Failure(Block):
    """What ended a pass that did not end well.

    kind       error: an exception; not_finite: logits were NaN or infinite; device: the device failed, twice, in a
               process of its own each time; timeout: it took longer than worker.timeout; killed, died: its process was
    step       of logits that were not finite: the first token of the text, counted from 0, that gave some
    traceback  where it happened; of a process that ended, the last that it said
    """

    kind: Literal["error", "not_finite", "device", "timeout", "killed", "died"]
    step: int | None = None
    traceback: str = ""


class Score(Block):
    """One number of a task with its 95% interval over `n` independent samples."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None
    interval: Literal["wilson", "newcombe", "bootstrap", "none"] = "none"
    higher_is_better: bool = True
    unit: str = ""


class Quartiles(Block):
    """Median and quartiles over `n` timed repetitions, in seconds."""

    median: float
    q1: float
    q3: float
    n: int


class QualityState(Block):
    """What the state held in the runs that gave the scores, mean over the samples, in tokens and bytes.

    A task seals where its own prompt ends, which is not where the memory pass does: these are the sizes that belong
    to its scores.

    sealed_tokens   tokens that had been read when the prompt was sealed
    sealed_payload  bytes that the state held then, as run
    share16         analytic payload then, with 16-bit elements, over dense attention's of those tokens
    final_payload   bytes that the state held when the last token had been scored
    """

    sealed_tokens: float
    sealed_payload: float
    share16: float | None
    final_payload: float


class Rescored(Block):
    """Where answers come from that were scored again: the record that first held them, and how it had scored them."""

    created: str
    task_version: int
    task_hash: str


class Quality(Block):
    """What the method answered. `sample_set` says which samples (n, seed, tokenizer, data revision): pairwise
    comparisons need it equal; `task_hash` says how they were scored: one column needs it equal."""

    status: Status
    reason: str = ""
    repetitions: int = 0
    task: str = ""
    task_version: int = 0
    task_hash: str = ""
    sample_set: str = ""
    primary: str = ""
    scores: dict[str, Score] = Field(default_factory=dict)
    #: Per-sample results: prompt length, target, generation, score; what `rescore` and paired tests need.
    samples: tuple[dict[str, Any], ...] = ()
    #: None in records of schema 1.
    state: QualityState | None = None
    prefix_store: bool = False
    #: The primary score of an answer that is guessed; None: not known, or a score that has none.
    chance: float | None = None
    #: None unless `rescore` made this block from another record's.
    rescored: Rescored | None = None
    failure: Failure | None = None


class Parts(Block):
    """What memory is made of at one moment, in bytes, measured by whose storages lived then (runners/peak.py).

    weights      parameters and buffers of the model
    state        what the method's state must hold then, on the device's tier
    slack        what the state had allocated there and did not use
    host         the state's host tier, payload and slack: within a peak on the CPU, beyond one on a GPU
    logits       what the language-model head gave, and floating-point tensors made of it
    activations  every other tensor
    workspace    what no tensor shows of a GPU allocator's peak: temporaries inside kernels, and rounding
    """

    weights: int = 0
    state: int = 0
    slack: int = 0
    host: int = 0
    logits: int = 0
    activations: int = 0
    workspace: int = 0

    @property
    def device(self) -> int:
        """All but the host tier."""
        return self.weights + self.state + self.slack + self.logits + self.activations + self.workspace


class Memory(Block):
    """The four sizes (nominal, analytic, live, peak), in bytes, of one sequence batch at one context.

    nominal    what the method claims: its saving without scales, residuals, metadata or slack
    analytic   what its closed form predicts at the end (after decoding), payload and slack apart
    live       what its state held there, payload and slack apart, host included and also given alone
    peak       the most that tensors held at once, weights and state included, in prefill and in decode
    resident   what tensors held at rest after the last decoded token, weights, state and last logits included
    share16    analytic payload at 16 bits, at seal, over dense at 16 bits
    """

    status: Status
    reason: str = ""
    repetitions: int = 0
    prompt_tokens: int = 0
    decoded_tokens: int = 0
    chunk: int | None = None
    nominal: int | None = None
    analytic_payload: int | None = None
    analytic_slack: int | None = None
    live_payload: int | None = None
    live_slack: int | None = None
    live_host: int | None = None
    sealed_payload: int | None = None
    dense16: int | None = None
    share16: float | None = None
    bytes_read: int | None = None
    weights: int | None = None
    peak: int | None = None
    prefill_peak: int | None = None
    decode_peak: int | None = None
    resident: int | None = None
    #: What the two peaks are made of. Like `resident`, None in records of schema 1.
    prefill_parts: Parts | None = None
    decode_parts: Parts | None = None
    #: Of a workload's prompts: tokens that a common prefix spares, and padding to the longest row of each batch, which
    #: packed rows are without.
    shared_tokens: int | None = None
    padding_tokens: int | None = None
    #: Beyond `peak`: temporaries inside kernels, which no tensor shows (CPU).
    workspace: int | None = None
    #: Beyond `peak`: reserved by the caching allocator and not handed out (CUDA).
    allocator_waste: int | None = None
    #: Where memory ran out: the largest context in this sweep that did fit.
    largest_fitting_context: int | None = None
    failure: Failure | None = None


class Time(Block):
    """`prefill`: seconds until the first logits (TTFT): all chunks and seal. `decode`: seconds for one decoded token of
    the whole batch, each repetition the mean over `decoded_tokens`."""

    status: Status
    reason: str = ""
    repetitions: int = 0
    warmups: int = 0
    prompt_tokens: int = 0
    decoded_tokens: int = 0
    chunk: int | None = None
    prefill: Quartiles | None = None
    decode: Quartiles | None = None
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    #: (weights + batch x bytes read) / time per token / bandwidth
    mbu: float | None = None
    #: Measured on this device, bytes a second; a copy of N bytes counts 2N.
    copy_bandwidth: float | None = None
    read_bandwidth: float | None = None
    failure: Failure | None = None


class Limit(Block):
    """What the measured process was held to.

    bytes          the most that it might take
    enforced       how, which decides what counts (runners/limit.py): by a control group, every page that it touched
                   first; by RLIMIT_DATA, its private writable mappings; on CUDA, what torch's allocator reserves
    baseline       bytes, so counted, that it held before the model was loaded: the interpreter and the libraries
    resident_peak  the most that it had in memory: its resident pages, on CUDA what the allocator had reserved
    """

    bytes: int
    enforced: Literal["cgroup", "rlimit", "cuda"]
    baseline: int
    resident_peak: int | None = None


class Probe(Block):
    """One try of a search, in a process of its own: one prefill and some decoded tokens.

    size             tokens of context, or sequences of the batch
    status           ok, or oom where it did not fit; failed ends the search
    state            bytes that the state held after the last token, slack included; `bytes_read` as in Memory
    prefill, decode  seconds to the first logits, and for one decoded token of the batch
    predicted_peak   what tensors would hold at once, from fake tensors, weights included; None: not asked for
    """

    size: int
    status: Status
    reason: str = ""
    state: int | None = None
    bytes_read: int | None = None
    prefill: float | None = None
    decode: float | None = None
    resident_peak: int | None = None
    predicted_peak: int | None = None


Bound = Literal["memory", "positions", "most"]


class Search(Block):
    """The largest size that fits, as it was predicted and as it was found.

    kind             what is sought: the longest context in tokens, or the largest batch of the cell's context
    found            the largest size that fitted; 0: not even the smallest did
    bound            what stopped it: memory; the positions that model and method have; or the search's own `most`
    predicted        the largest size at which baseline and predicted peak are within the limit. It knows no temporaries
                     inside kernels, and no memory that the allocator cannot give back
    predicted_bound  what stops that
    note             why there is no prediction, or why it is a bound
    step             the next size that was tried is at most so much larger
    probes           every try, in order
    """

    kind: Literal["max_context", "max_throughput"]
    found: int | None = None
    bound: Bound | None = None
    predicted: int | None = None
    predicted_bound: Bound | None = None
    note: str = ""
    step: int
    probes: tuple[Probe, ...] = ()


class Trial(Block):
    """One learning rate that was tried: its score on validation texts, and what it took."""

    lr: float
    score: float
    steps: int
    tokens: int
    seconds: float
    diverged: bool = False


class Training(Block):
    """How the model was trained that a record of the trained track measures, and what that cost.

    lr, steps, tokens, seconds, flops   of the training whose model was measured: the best of `tried`
    flops       of products of matrices, forward and backward, counted on one step of each shape of batch
    reference   of an uptrained model: validation loss with dense attention, before another method took its place. The
                first point of the curve, at step 0, is the loss with the method before it was trained
    stopped     solved: validation reached `train.stop`; schedule: the steps were over
    parameters  that were trained, the method's own among them, `method_parameters`
    curve       a point each evaluation: step, loss, valid_loss, score
    """

    lr: float
    steps: int
    tokens: int
    seconds: float
    flops: int
    stopped: Literal["solved", "schedule"]
    parameters: int
    method_parameters: int = 0
    reference: float | None = None
    curve: tuple[dict[str, float], ...] = ()
    tried: tuple[Trial, ...] = ()


class MethodInfo(Block):
    """What a reader must know of a method to read its row: declared, not measured."""

    family: str
    label: str
    tags: tuple[str, ...] = ()
    needs_training: bool = False
    simulated: bool = False
    bounded: bool = False
    query_sensitive: bool = False
    paper: str = ""


class Budget(Block):
    """What a method was to hold at most, and what came of it (runners/budget.py).

    asked   as it was given: tokens, a share of 16-bit dense, or bytes
    limit   bytes of payload at seal, at 16 bits
    knob    the method's parameter that was solved for; None: it has none, and is shown at its own size
    value   what it came to; None: even the smallest does not fit
    got     bytes that the method holds by its closed form
    """

    asked: str
    limit: int
    knob: str | None = None
    value: int | None = None
    got: int = 0

    @property
    def matched(self) -> bool:
        """Whether the method's size is the budget's doing."""
        return self.value is not None

    @property
    def infeasible(self) -> bool:
        """Whether the method has a knob, and no setting of it fits."""
        return self.knob is not None and self.value is None


class Cell(Block):
    """What determines a record. `method`, `task` and `protocol` are plain dictionaries of parameters; method and
    task carry their registered `name`. Where a `budget` was asked for, `method` has the knob that it solved.

    `memory_limit` is in bytes. A cell with a `search`, its settings, asks no task; where the context is what is sought,
    `context` is 0. A cell with a `workload`, its requests, asks no task either: `context` is the longest request, and
    `batch` how many there are.
    """

    model: str
    dtype: str
    device: str
    method: dict[str, Any]
    task: dict[str, Any]
    protocol: dict[str, Any]
    context: int
    batch: int = 1
    seed: int = 0
    budget: Budget | None = None
    memory_limit: int | None = None
    search: dict[str, Any] | None = None
    workload: dict[str, Any] | None = None
    #: Of a model that was trained for it: settings, shapes trained on, what it began from.
    training: dict[str, Any] | None = None

    @property
    def unsolved(self) -> dict[str, Any]:
        """The method's parameters without the knob that a budget solved."""
        return _without(self.method, self.budget.knob) if self.budget else self.method

    @property
    def asked(self) -> dict[str, Any]:
        """The method as it was asked for, the same at every context."""
        return {**self.unsolved, "budget": self.budget.asked} if self.budget else self.method


def _without(params: Mapping[str, Any], path: str | None) -> dict[str, Any]:
    first, _, rest = (path or "").partition(".")
    return {k: _without(v, rest) if k == first else v for k, v in params.items() if k != first or rest}


class Environment(Block):
    """Where it ran."""

    device_name: str
    device_kind: Literal["cpu", "cuda", "mps"]
    threads: int
    platform: str
    python: str
    torch: str
    transformers: str
    kvfrontier: str
    git_revision: str | None = None


class Record(Block):
    """One cell and what came of it."""

    schema_version: int = SCHEMA_VERSION
    id: str
    created: str
    cell: Cell
    info: MethodInfo
    method_hash: str
    protocol_hash: str
    environment: Environment
    config: dict[str, Any]
    model_info: dict[str, Any] = Field(default_factory=dict)
    quality: Quality
    memory: Memory
    time: Time
    #: Where the cell has a memory_limit or a search.
    limit: Limit | None = None
    search: Search | None = None
    #: Where the cell has a training that came to its end.
    training: Training | None = None
    #: What runs this cell again; empty in records of schemas 1 and 2, as the next two are None and 1.
    command: str = ""
    #: From the cell's beginning to its end, every pass and sample included, by a clock that nobody sets.
    seconds: float | None = None
    #: Processes that it took: more than 1 where a device failed, and the cell was tried again.
    attempts: int = 1

    @property
    def status(self) -> Status:
        """The worst of the blocks that were asked for."""
        blocks: dict[str, Status] = {
            "quality": self.quality.status, "memory": self.memory.status, "time": self.time.status,
        }  # fmt: skip
        timed = self.cell.protocol.get("repetitions") != 0
        return outcome(blocks, self.search is not None, self.cell.workload is not None, timed)

    @property
    def moved(self) -> bool:
        """Whether its scores are of another version of the task than the answers: what was asked then may be other than
        what is asked now, so they stand beside neither."""
        quality = self.quality
        version = self.cell.task.get("version", quality.task_version)
        other = quality.rescored is not None and quality.rescored.task_hash != quality.task_hash
        return bool(quality.task_hash) and (version != quality.task_version or other)


class BadRecords(ValueError):
    """A records file that does not hold what it should; says which file and which line."""


class NewerSchema(BadRecords):
    """Records of a newer kvfrontier, which this one would misread."""


class TornLine(UserWarning):
    """The last line of a records file was not written to its end: its writer was killed."""


# What identifies a record.


def canonical_json(value: Any) -> str:
    """JSON with one spelling: sorted keys, no spaces, 1.0 written as 1. Raises ValueError for NaN and infinities."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """`gate=0` and `gate=0.0` are one setting, however it was typed."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def content_hash(value: Any) -> str:
    """sha256 of the canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def record_id(cell: Cell, method_hash: str, device_name: str, torch_version: str, transformers_version: str) -> str:
    """sha256 over what determines a record: the cell, the method's code, the device and the libraries' major.minor."""
    # A cell that has nothing of what later versions added keeps its id.
    added = {key for key in ("memory_limit", "search", "workload", "training") if getattr(cell, key) is None}
    return content_hash(
        {
            "cell": cell.model_dump(exclude=added),
            "method_hash": method_hash,
            "device": device_name,
            "torch": _minor(torch_version),
            "transformers": _minor(transformers_version),
        }
    )


def _minor(version: str) -> str:
    return ".".join(version.split("+")[0].split(".")[:2])


# Files: one record a line, only ever appended to.


def check_writable(folder: str | Path, option: str = "results=DIR") -> Path:
    """Make the folder and try it, before any work is done that could not be kept. `option`: how the user named it.
    Raises UsageError."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise UsageError(
            f"cannot write to the folder {folder} ({error.strerror}); name one that you can write with {option}"
        ) from error


def append(path: str | Path, record: Record) -> None:
    """Add one record to a file, and return when it is on the disk.

    Writers in several processes take turns. A line that an earlier writer left unfinished is set aside first, into
    `<path>.torn`, with a warning; where the disk is full, the file is left as it was. Raises OSError.
    """
    path = Path(path)
    line = record.model_dump_json().encode() + b"\n"
    is_new = not path.exists()
    with _locked(path) as fd:
        _mend(fd, path)
        end = os.lseek(fd, 0, os.SEEK_END)
        try:
            _write(fd, line)
        except OSError:
            os.ftruncate(fd, end)
            raise
    if is_new:
        _sync_folder(path.parent)


def record_files(*paths: str | Path) -> list[Path]:
    """The .jsonl files among `paths` and, of folders, below them, sorted, each once. Raises UsageError for a path that
    does not exist."""
    files: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise UsageError(f"there are no records at {path}; name a .jsonl file or a folder that holds some")
        for file in sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]:
            files.setdefault(file.resolve(), file)
    return list(files.values())


def iter_records(*paths: str | Path) -> Iterator[Record]:
    """Every record of files and folders as it stands there, repeated ids included, one line in memory at a time.

    A torn last line is passed over with a `TornLine` warning and left where it is: its writer may still be at work.
    Raises NewerSchema and BadRecords, with file and line.
    """
    for path in record_files(*paths):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.isspace():
                    continue
                try:
                    yield _parse(line, f"{path}, line {number}")
                except NewerSchema:
                    raise
                except BadRecords:
                    if line.endswith(b"\n"):
                        raise
                    warnings.warn(
                        f"{path}, line {number}: the last line is torn, for its writer was interrupted, and is passed "
                        f"over; the next record written moves it to {path.name}.torn",
                        TornLine,
                        stacklevel=2,
                    )


def load_records(*paths: str | Path) -> list[Record]:
    """The records of files and folders, one an id: of one file the last, of several the one that did not fail, and
    then the latest by its time of creation. Clocks jump; what stands below in a file was written later.

    Raises as `iter_records` does.
    """
    latest: dict[str, Record] = {}
    for file in record_files(*paths):
        for key, record in {r.id: r for r in iter_records(file)}.items():
            if key not in latest or supersedes(record, latest[key]):
                latest[key] = record
    return list(latest.values())


class Told(Protocol):
    """What decides between two records of one id."""

    @property
    def status(self) -> Status: ...
    @property
    def created(self) -> str: ...


def supersedes(new: Told, old: Told) -> bool:
    """Whether a record takes the place of one with the same id from another file."""
    return (new.status != "failed", new.created) >= (old.status != "failed", old.created)


def _parse(line: bytes, where: str) -> Record:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise BadRecords(f"{where}: not JSON ({error}); remove or mend this line") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise NewerSchema(
            f"{where}: schema version {version}, and this kvfrontier reads up to {SCHEMA_VERSION}; upgrade kvfrontier"
        )
    try:
        return Record.model_validate(data)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'record'}: {e['msg']}" for e in error.errors()[:3])
        raise BadRecords(f"{where}: not a record ({wrong}); remove or mend this line") from error


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file open for appending, for this process alone."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        # Within a sweep the file is claimed besides (runners/sweep/claims.py), for filesystems that know no such lock.
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        yield fd
    finally:
        os.close(fd)  # which unlocks


def _write(fd: int, data: bytes) -> None:
    """All of `data`, to the disk. It is one call to the system unless the disk fills up meanwhile."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.fsync(fd)


def _mend(fd: int, path: Path) -> None:
    """Make the file end with a whole line. Only under the lock: another writer could be in the middle of its own."""
    start, tail = _tail(fd)
    if not tail:
        return
    try:
        _parse(tail, f"{path}, last line")
    except BadRecords:
        pass
    else:  # only the newline is missing
        return _write(fd, b"\n")
    torn = path.with_name(path.name + ".torn")
    with _locked(torn) as aside:
        _write(aside, tail + b"\n")
    os.ftruncate(fd, start)
    warnings.warn(
        f"{path}: the last line was torn, for its writer was interrupted; it is kept in {torn.name}",
        TornLine,
        stacklevel=3,
    )


def _tail(fd: int, block: int = 1 << 16) -> tuple[int, bytes]:
    """What stands after the last newline, and where it starts."""
    start, tail = os.lseek(fd, 0, os.SEEK_END), b""
    while start > 0 and b"\n" not in tail:
        size = min(block, start)
        start -= size
        tail = os.pread(fd, size, start) + tail
    cut = tail.rfind(b"\n") + 1
    return start + cut, tail[cut:]


def _sync_folder(folder: Path) -> None:
    """A new file's name is on the disk only when its folder is."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
