"""What is true of every record that a run made: what is not, was not made by one, or was changed afterwards.

Each check gives sentences, one for each thing that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

from kvfrontier.analysis.stats import units
from kvfrontier.methods import registry
from kvfrontier.runners import tasks
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.record import Quartiles, Record, Score, content_hash, record_id

#: What a protocol says; a cell that leaves one open was not composed by this project.
PROTOCOL = {"chunk", "decode_tokens", "repetitions", "warmups"}
#: How far a mean that is written may be from the mean of what it was taken of.
ROUNDING = 1e-6


def problems(record: Record) -> list[str]:
    """All that is wrong with a record, in sentences; empty where nothing is."""
    return [problem for check in CHECKS for problem in check(record)]


def identity(record: Record) -> Iterator[str]:
    """The id is the hash of what determines the record."""
    env = record.environment
    expected = record_id(record.cell, record.method_hash, env.device_name, env.torch, env.transformers)
    if record.id != expected:
        yield f"id is {record.id[:12]}, and the cell, the method's code, device and libraries give {expected[:12]}"
    if record.cell.method.get("name") not in registry.entries():
        yield f"there is no method {record.cell.method.get('name')!r}; submit it with its code"


def moment(record: Record) -> Iterator[str]:
    """It was made at a time that is known and past."""
    try:
        created = datetime.fromisoformat(record.created)
    except ValueError:
        yield f"created is {record.created!r}, which is no time"
        return
    if created.tzinfo is None:
        yield f"created {record.created} has no time zone"
    elif created > datetime.now(UTC) + timedelta(days=1):
        yield f"created {record.created} is in the future"


def environment(record: Record) -> Iterator[str]:
    """Where it ran is said."""
    env = record.environment
    for key in ("device_name", "platform", "python", "torch", "transformers", "kvfrontier"):
        if not str(getattr(env, key)).strip():
            yield f"environment.{key} is empty"
    if env.threads < 1:
        yield f"environment.threads is {env.threads}"
    if env.device_kind != record.cell.device.split(":")[0]:
        yield f"the cell ran on {record.cell.device}, and its environment is of kind {env.device_kind}"


def protocol(record: Record) -> Iterator[str]:
    """How it was measured is known."""
    lacking = PROTOCOL - record.cell.protocol.keys()
    if lacking:
        yield f"the protocol does not say {', '.join(sorted(lacking))}"
    if record.protocol_hash != content_hash(record.cell.protocol):
        yield "protocol_hash is not the hash of the protocol"


def memory(record: Record) -> Iterator[str]:
    """Live is what the closed form says, and no peak is below it."""
    found = record.memory
    if found.status != "ok":
        return
    for part in ("payload", "slack"):
        analytic, live = getattr(found, f"analytic_{part}"), getattr(found, f"live_{part}")
        if analytic is None or live is None:
            yield f"memory says no analytic or no live {part}"
        elif analytic != live:
            yield f"analytic {part} is {analytic:,} bytes, and live {part} {live:,}"
    sizes = {name: value for name, value in found.model_dump().items() if isinstance(value, int)}
    yield from (f"memory.{name} is {value:,}" for name, value in sizes.items() if value < 0)
    if found.peak is None or found.prefill_peak is None or found.decode_peak is None:
        yield "memory says no peak"
        return
    if found.peak != max(found.prefill_peak, found.decode_peak):
        passes = f"{found.prefill_peak:,} and {found.decode_peak:,}"
        yield f"peak is {found.peak:,}, and those of prefill and decode are {passes}"
    live = (found.live_payload or 0) + (found.live_slack or 0)
    on_device = live - (found.live_host or 0 if record.environment.device_kind != "cpu" else 0)
    if found.decode_peak < on_device + (found.weights or 0):
        yield f"the peak of decode, {found.decode_peak:,} bytes, is below weights and live state"
    if found.share16 is not None and not 0 <= found.share16 < math.inf:
        yield f"share16 is {found.share16}"
    if not (record.cell.search or record.cell.workload):
        measured = found.prompt_tokens + found.decoded_tokens
        if measured != record.cell.context:
            yield f"memory was measured over {measured} tokens, and the context is {record.cell.context}"


def time(record: Record) -> Iterator[str]:
    """Seconds are positive, quartiles in order, and of as many repetitions as are said."""
    found = record.time
    if found.status != "ok":
        return
    for name in ("prefill", "decode"):
        quartiles: Quartiles | None = getattr(found, name)
        if quartiles is None:
            yield f"time says no {name}"
        elif not 0 < quartiles.q1 <= quartiles.median <= quartiles.q3 < math.inf:
            yield f"{name} takes {quartiles.q1}, {quartiles.median}, {quartiles.q3} s: not positive, or not in order"
        elif quartiles.n != found.repetitions:
            yield f"{name} is of {quartiles.n} repetitions, and time says {found.repetitions}"
    for name in ("prefill_tokens_per_second", "decode_tokens_per_second", "mbu"):
        value = getattr(found, name)
        if value is not None and not 0 < value < math.inf:
            yield f"time.{name} is {value}"


def quality(record: Record) -> Iterator[str]:
    """The task is one that is known, and every score is the mean of the results that stand beside it."""
    found = record.quality
    if found.status != "ok":
        return
    try:
        task = _task(record)
    except UsageError as error:
        yield f"the task cannot be made: {error}"
        return
    if (found.task, found.task_version, found.task_hash) != task:
        yield (
            f"scored by {found.task} version {found.task_version} (hash {found.task_hash}), and the task is version "
            f"{task[1]} (hash {task[2]}): run it again, or rescore it"
        )
    if not found.sample_set:
        yield "quality says no sample set"
    if found.primary not in found.scores:
        yield f"there is no score {found.primary!r}, which is the task's main one"
    for name, score in found.scores.items():
        yield from _score(record, name, score)


def _task(record: Record) -> tuple[str, int, str]:
    """Name, version and hash of the task that a record's cell names. Raises UsageError where there is none."""
    if record.cell.training:
        from kvfrontier.runners.train.tasks import of

        trained, shape = of(record.cell.task)
        return trained.name, trained.version, trained.hash(shape)
    task = tasks.make({key: value for key, value in record.cell.task.items() if key != "version"})
    return task.name, task.version, task.hash()


def _score(record: Record, name: str, score: Score) -> Iterator[str]:
    if math.isnan(score.value):
        yield f"{name} is not a number"
        return
    if score.low is not None and score.high is not None and not score.low <= score.value <= score.high:
        yield f"{name} is {score.value}, outside its interval of {score.low} to {score.high}"
    if score.interval == "wilson" and not 0 <= score.value <= 1:
        yield f"{name} is {score.value}, and it is a share"
    try:
        single = units(record.quality, name)
    except (TypeError, ValueError, AttributeError):
        yield f"the single results of {name} are no numbers"
        return
    if single is None:
        return
    if len(single) != score.n:
        yield f"{name} is of {score.n} results, and there are {len(single)}"
        return
    mean = math.fsum(single) / len(single)
    if name == "perplexity":
        mean = math.exp(min(mean, 700.0))
    if math.isfinite(mean) and abs(mean - score.value) > ROUNDING * max(1.0, abs(mean)):
        yield f"{name} is {score.value:.6g}, and its results give {mean:.6g}"


CHECKS: tuple[Callable[[Record], Iterator[str]], ...] = (
    identity, moment, environment, protocol, memory, time, quality,
)  # fmt: skip
