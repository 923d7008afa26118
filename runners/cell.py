"""One cell: what identifies it, whether it can run, and running it.

cell = describe(config)              # from a composed configuration, every default filled in
identify(cell)                       # the id its record has, to find it where it exists already
check([cell], config["model"])       # before any work: UsageError, or why its method cannot serve the model
bench = Bench(cell, config["model"]) # a job's: one loaded model and one method
bench.run(cell, config, say)         # task, time and memory, in passes of their own -> Record
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, cached_property, lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from kvfrontier.methods import Dense, Method, registry
from kvfrontier.runners import budget as budgets
from kvfrontier.runners import compose, environment, meter, models, tasks, tracker, workloads
from kvfrontier.runners import limit as limits
from kvfrontier.runners.errors import ContextError, UsageError
from kvfrontier.runners.guard import guarded
from kvfrontier.runners.models import LoadedModel
from kvfrontier.runners.prefix import settings as prefix
from kvfrontier.runners.record import (
    Budget,
    Cell,
    Environment,
    Failure,
    Limit,
    Memory,
    MethodInfo,
    Quality,
    Record,
    Search,
    Status,
    Time,
    canonical_json,
    content_hash,
    record_id,
)
from kvfrontier.runners.refusal import Judge, check_model, foresee, refusal
from kvfrontier.runners.search import settings as search_settings
from kvfrontier.runners.workload_meter import measure_workload

if TYPE_CHECKING:
    from kvfrontier.runners.prefix.files import PrefixFiles
    from kvfrontier.runners.session import Session

#: Of a cell with a search.
_NO_TASK = {"name": "none", "version": 1}


def describe(config: Mapping[str, Any], prompt: int | None = None, refuse: bool = True, here: bool = True) -> Cell:
    """What determines a record, from a composed configuration. Raises UsageError for what does not exist.

    A budget is solved at the end of the task's prompt, so that the scores are of a state within it, or of `prompt`
    tokens where no task is run. `refuse=False` leaves it to `check` to say that values make no method, or that the
    method cannot serve the model: in a sweep that is a result. `here=False`: another machine will run it.
    """
    models.resolve_dtype(config["dtype"])
    tracker.parse(config["tracker"])
    prefix.parse(config)
    search = search_settings.read(config)
    for key, value, least in [
        *((key, config[key], least) for key, least in (("context", 2), ("batch", 1), ("seed", 0))),
        *((f"meter.{key}", value, int(key == "decode_tokens")) for key, value in config["meter"].items()),
        *((f"protocol.{key}", value, 1) for key, value in config["protocol"].items() if value is not None),
    ]:
        if not isinstance(value, int) or value < least:
            raise UsageError(f"{key}={value!r} must be a whole number of at least {least}")
    device = str(models.resolve_device(config["device"], here))
    context, batch = config["context"], config["batch"]
    if not config["meter"]["repetitions"] and (search or config.get("memory_limit")):
        raise UsageError("meter.repetitions=0 times nothing; a search and memory_limit= are of a timed pass, so give 1")
    if config["model"].get("device_map") and (search or config.get("memory_limit")):
        raise UsageError("a search and memory_limit= are of one GPU, and model.device_map of several; leave one away")
    workload = workloads.make(config["workload"]) if config.get("workload") else None
    if workload and search:
        raise UsageError("a workload says how long its requests are; leave +search or workload away")
    if workload and config.get("memory_limit"):
        raise UsageError("memory_limit= is a limit on timed passes, and a workload has none; leave one of them away")
    if workload:
        # Its memory alone is measured, and no task asked.
        task, read = _NO_TASK, max(r.prompt for r in workload.requests)
        context, batch = workload.longest, workload.count
        config = {**config, "batch": batch}
    elif search:
        limits.check(device)
        # A search asks no task, and what it seeks is not given.
        task, read = _NO_TASK, context - config["meter"]["decode_tokens"]
        context, batch = (0, batch) if search.of_context else (context, 1)
    else:
        made = tasks.make(config["task"])
        task = {**made.parameters(), "version": made.version}
        tokenizer = (lambda: models.tokenizer(config["model"])) if config.get("budget") else None
        read = prompt or made.prompt_tokens(context, tokenizer)
    method, budget = _within_budget(config, _method_parameters(config["method"], refuse), read, refuse)
    return Cell(
        model=model_name(config["model"]),
        dtype=config["dtype"],
        device=device,
        method=method,
        task=task,
        protocol={**config["protocol"], **config["meter"]},
        context=context,
        batch=batch,
        seed=config["seed"],
        budget=budget,
        memory_limit=limits.parse(config.get("memory_limit"), device),
        search=search.model_dump() if search else None,
        workload=workload.model_dump(mode="json") if workload else None,
    )


def _within_budget(
    config: Mapping[str, Any], method: dict[str, Any], prompt: int, refuse: bool
) -> tuple[dict[str, Any], Budget | None]:
    """The method's parameters with its knob solved for the budget after `prompt` tokens, where one is asked for."""
    asked = config.get("budget")
    if asked is None:
        return method, None
    # Not canonical_json: a gate of 0.0 must come back as a float.
    given = json.dumps(method, sort_keys=True), json.dumps(config["model"], sort_keys=True)
    try:
        solved = _solve(str(asked), *given, config["batch"], max(1, prompt))
    except UsageError:
        raise
    except ValueError as error:
        if refuse:
            raise UsageError(str(error)) from error
        return method, Budget(asked=str(asked), limit=0)
    found = Budget(asked=str(asked), limit=solved.limit, knob=solved.knob, value=solved.value, got=solved.got)
    return solved.params, found


@cache
def _solve(asked: str, method: str, model: str, batch: int, prompt: int) -> budgets.Solved:
    return budgets.solve(asked, json.loads(method), models.layers(json.loads(model)), batch, prompt)


def method_at(cell: Cell, model: Mapping[str, Any]) -> Callable[[int], Method]:
    """The cell's method by a prompt's length in tokens: a budget is solved for that length, and not for the context's.

    What is returned raises UsageError where nothing of the method is as small as the budget of such a prompt.
    """
    asked = {"budget": cell.budget and cell.budget.asked, "batch": cell.batch, "model": model}

    @cache
    def solved(prompt: int) -> Method:
        params, budget = _within_budget(asked, cell.method, prompt, refuse=True)
        if budget and budget.infeasible:
            raise UsageError(
                f"budget={budget.asked} of a prompt of {prompt} tokens is less than the smallest {budget.knob} of "
                f"{method_label(cell)}; give more, or a number of tokens"
            )
        return registry.build(params)

    return solved


def model_name(config: Mapping[str, Any]) -> str:
    """The model's name, with what tells it from others of that name: `hf(path=org/name)`."""
    told = ("name", "kind", "accept_terms", "architecture")
    settings = [f"{key}={value}" for key, value in config.items() if key not in told and value is not None]
    if config["kind"] == "embedded" or not settings:
        return str(config["name"])
    if config["kind"] == "tiny":
        return f"{config['name']}-{content_hash(dict(config))[:8]}"
    return f"{config['name']}({', '.join(settings)})"


def identify(cell: Cell, device_name: str | None = None) -> str:
    """The id of the cell's record on this machine's device, or on one of this name, with the libraries here."""
    name = device_name or _environment(cell.device).device_name
    return record_id(cell, registry.source_hash(cell.method), name, torch.__version__, _transformers())


@cache
def _transformers() -> str:
    """Its version, without loading it: reading that takes longer than all else of an id."""
    return version("transformers")


def method_label(cell: Cell) -> str:
    """The method's short name, as `kivi2`."""
    label = registry.label(cell.unsolved)
    return f"{label}@{cell.budget.asked}" if cell.budget else label


def task_label(cell: Cell) -> str:
    """The task's name, with its data set or its own tasks, and when the method compresses where that is not the usual;
    or what is sought."""
    if cell.search or cell.workload:
        return str((cell.search or cell.workload or {})["name"])
    compress_at = cell.task.get("compress_at", "context")
    of = (cell.task.get("dataset"), *cell.task.get("names", ()), compress_at if compress_at != "context" else None)
    told = ", ".join(str(one) for one in of if one)
    return f"{cell.task['name']} ({told})" if told else cell.task["name"]


def name(cell: Cell) -> str:
    """What tells the cell from others of its sweep, in words: `kivi2 on smollm2-135m, needle at 1024`."""
    at = f" at {cell.context}" if cell.context else ""
    return f"{method_label(cell)} on {cell.model}, {task_label(cell)}{at}"


def check(cells: Sequence[Cell], model: Mapping[str, Any]) -> list[str | None]:
    """Why each of a job's cells cannot be served, or None where it can: before any cell of its sweep is run. The method
    cannot serve the model, or the context cannot hold the task.

    The model is loaded, and the method run on two tokens, in which it looks at every layer; for a search, neither.
    Raises UsageError, with what to change, for what is wrong whatever the method.
    """
    asking = [cell for cell in cells if not cell.search]
    loaded = load(asking[0], model) if asking else None
    if loaded:
        check_model(loaded.model)
    unfit: list[str | None] = []
    for cell in cells:
        unfit.append(None)
        if cell.search or cell.workload:
            continue
        assert loaded is not None
        try:
            _task(cell).check(loaded, cell.context, cell.seed)
        except ContextError as error:
            unfit[-1] = str(error)
        decode_tokens = cell.protocol["decode_tokens"]
        if decode_tokens >= cell.context:
            raise UsageError(
                f"meter.decode_tokens={decode_tokens} leaves nothing of context {cell.context} to prefill; lower it"
            )
    refused = Judge(lambda cell: _refusal(cell, model, loaded))
    reasons = [why or refused(cell) for cell, why in zip(cells, unfit, strict=True)]
    from kvfrontier.runners.search import run as searches

    for cell, reason in zip(cells, reasons, strict=True):
        if cell.search and not reason:
            searches.check(cell, model)
    return reasons


def _refusal(cell: Cell, model: Mapping[str, Any], loaded: LoadedModel | None) -> str | None:
    return foresee(cell, model) if loaded is None or cell.search else refusal(cell, loaded.model)


def load(cell: Cell, model: Mapping[str, Any]) -> LoadedModel:
    """The model, on its device; the last one is kept in the process."""
    return _load(canonical_json({**model, "dtype": cell.dtype, "device": cell.device}))


@lru_cache(maxsize=1)
def _load(config: str) -> LoadedModel:
    return models.load(json.loads(config))


@dataclass(frozen=True)
class _Blocks:
    """What a cell's record has of its run. `model`: facts of a model that was loaded elsewhere."""

    quality: Quality
    memory: Memory
    time: Time
    limit: Limit | None = None
    search: Search | None = None
    model: dict[str, Any] | None = None


class Bench:
    """One loaded model and one method as it was asked for, which all cells of a job share.

    Time and memory do not depend on the task: they are measured once for each context, batch and protocol, and the
    records of all tasks there carry the same blocks. They are measured on random tokens, the same for every method.
    """

    def __init__(self, cell: Cell, model: Mapping[str, Any]):
        self._cell, self._model = cell, model
        self._measured: dict[str, tuple[Memory, Time, Limit | None]] = {}
        self._fitted: list[int] = []
        self._refused = Judge(lambda cell: _refusal(cell, model, None if cell.search else self.loaded))

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model, from when it is needed: a search needs none in this process."""
        return load(self._cell, self._model)

    def run(self, cell: Cell, config: Mapping[str, Any], say: Callable[[str], None]) -> Record:
        """Run one cell. What goes wrong in a pass is the status of its block. `say` is told what is going on."""
        found = self._blocks(cell, config, say)
        return _record(cell, config, found, self.loaded.facts if found.model is None else found.model)

    def _blocks(self, cell: Cell, config: Mapping[str, Any], say: Callable[[str], None]) -> _Blocks:
        reason = self._refused(cell)
        if reason:
            refused: dict[str, Any] = {"status": "infeasible", "reason": reason}
            facts = {} if cell.search else None
            return _Blocks(Quality(**refused), Memory(**refused), Time(**refused), model=facts)
        if cell.search:
            from kvfrontier.runners.search import run as searches

            _load.cache_clear()  # what a model of this process held would be missing there
            found = searches.search(cell, self._model, say)
            return _Blocks(Quality(status="skipped"), found.memory, found.time, found.limit, found.search, found.model)
        if cell.workload:
            memory = guarded(Memory, lambda: self._workload(cell, say))
            return _Blocks(Quality(status="skipped"), memory, Time(status="skipped"))
        files = prefix.open_files(config)
        return _Blocks(_feasible(lambda: self.quality(cell, files, say)), *self._measure(cell, say))

    def _open(self, cell: Cell) -> Callable[[], Session]:
        return lambda: _session(self.loaded.model, registry.build(cell.method))

    def quality(self, cell: Cell, files: PrefixFiles | None, say: Callable[[str], None]) -> Quality:
        """What a task says of one cell. `files`: the prefix store, or None; it is used only here, and never where time
        or a peak is taken."""
        from kvfrontier.runners.prefix.prefix import Prefixes
        from kvfrontier.runners.prefix.session import PrefixSession

        own, reference = (Prefixes(self.loaded, files) if files else None for _ in range(2))
        task = _task(cell)
        solved: dict[str, Any] = {"method": method_at(cell, self._model)} if task.own_lengths else {}
        quality = task.run(
            lambda: PrefixSession(self.loaded.model, registry.build(cell.method), own),
            lambda: PrefixSession(self.loaded.model, Dense(), reference),
            self.loaded,
            cell.context,
            cell.seed,
            chunk=cell.protocol["chunk"],
            progress=say,
            **solved,
        )
        return quality.model_copy(update={"prefix_store": own is not None and own.served > 0})

    def _workload(self, cell: Cell, say: Callable[[str], None]) -> Memory:
        vocabulary = self.loaded.model.config.get_text_config().vocab_size
        generator = torch.Generator().manual_seed(cell.seed)

        def draw(rows: int, n: int) -> torch.Tensor:
            return torch.randint(vocabulary, (rows, n), generator=generator).to(self.loaded.device)

        return measure_workload(
            self._open(cell),
            workloads.make(cell.workload or {}),
            draw,
            chunk=cell.protocol["chunk"],
            weights=self.loaded.model,
            device=self.loaded.device,
            say=say,
        )

    def _measure(self, cell: Cell, say: Callable[[str], None]) -> tuple[Memory, Time, Limit | None]:
        """Under a limit, the time pass has a process of its own, and whether it fits is whether that lives: what the
        tracker of the memory pass takes is not the method's, nor is the dense reference that quality is scored with."""
        key = canonical_json([cell.method, cell.context, cell.batch, cell.protocol, cell.memory_limit])
        if key not in self._measured:
            protocol = cell.protocol
            new = protocol["decode_tokens"]
            ids = random_ids(cell, self.loaded)
            prompt, decode = ids[:, :-new], ids[:, -new:]
            passes = {"chunk": protocol["chunk"], "weights": self.loaded.model}
            counts = {"repetitions": protocol["repetitions"], "warmups": protocol["warmups"]}
            say("time")
            limit = None
            if cell.memory_limit:
                from kvfrontier.runners.search import process
                from kvfrontier.runners.search import run as searches

                limit, report = process.run(searches.request(cell, self._model))
                time = report.time
            elif not protocol["repetitions"]:
                time = Time(status="skipped", reason="meter.repetitions=0")
            else:
                time = guarded(Time, lambda: meter.measure_time(self._open(cell), prompt, decode, **passes, **counts))
            if cell.memory_limit and time.status == "oom":
                memory = Memory(status="oom", reason=time.reason)
            else:
                say("memory")
                memory = guarded(Memory, lambda: meter.measure_memory(self._open(cell), prompt, decode, **passes))
            if memory.status == "ok":
                self._fitted.append(cell.context)
            elif memory.status == "oom":
                memory = memory.model_copy(update={"largest_fitting_context": max(self._fitted, default=None)})
            self._measured[key] = memory, time, limit
        return self._measured[key]


def _record(cell: Cell, config: Mapping[str, Any], found: _Blocks, facts: Mapping[str, Any]) -> Record:
    entry, here = registry.get(cell.method["name"]), _environment(cell.device)
    return Record(
        id=identify(cell),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        cell=cell,
        info=MethodInfo(
            family=entry.family,
            label=method_label(cell),
            tags=entry.tags,
            paper=entry.paper,
            **_flags(cell.method),
        ),
        method_hash=registry.source_hash(cell.method),
        protocol_hash=content_hash(cell.protocol),
        environment=here,
        config=dict(config),
        model_info=dict(facts),
        quality=found.quality,
        memory=found.memory,
        time=found.time,
        limit=found.limit,
        search=found.search,
    )


def without_result(cell: Cell, config: Mapping[str, Any], status: Status, reason: str, failure: Failure) -> Record:
    """The record of a cell that gave nothing: what ran it ended before."""
    ended: dict[str, Any] = {"status": status, "reason": reason, "failure": failure}
    quality = Quality(status="skipped") if cell.search or cell.workload else Quality(**ended)
    time = Time(status="skipped") if cell.workload else Time(**ended)
    return _record(cell, config, _Blocks(quality, Memory(**ended), time), {})


def random_ids(cell: Cell, loaded: LoadedModel) -> torch.Tensor:
    """Token ids [batch, context] for what does not depend on the text: bytes and seconds. The same for every method."""
    vocabulary = loaded.model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(cell.seed)
    return torch.randint(vocabulary, (cell.batch, cell.context), generator=generator).to(loaded.device)


def _session(model: Any, method: Method) -> Session:
    from kvfrontier.runners.session import Session  # which loads transformers: planning a sweep does without

    return Session(model, method)


def _feasible(quality: Callable[[], Quality]) -> Quality:
    """What a task cannot ask at this context is a result; what goes wrong in asking is a failure, and recorded."""
    try:
        return guarded(Quality, quality)
    except UsageError as error:
        return Quality(status="infeasible", reason=str(error))


def _flags(method: Mapping[str, Any]) -> dict[str, bool]:
    """What the method declares of itself, where there is one of these parameters."""
    try:
        built = registry.build(method)
    except ValueError:
        return {}
    return {name: getattr(built, name) for name in ("needs_training", "simulated", "bounded", "query_sensitive")}


def _method_parameters(given: Mapping[str, Any], refuse: bool = True) -> dict[str, Any]:
    """The method and all its parameters, defaults filled in. A text in `layers` is a choice of configs/method."""
    params = {key: value for key, value in given.items() if key != "layers"}
    layers = given.get("layers") or {}
    if not isinstance(layers, Mapping):
        raise UsageError(f"method.layers={layers!r} names no layers; write method.layers={{0-1: dense}}")
    if layers:
        chosen = {
            str(spec): compose.choice("method", choice) if isinstance(choice, str) else choice
            for spec, choice in layers.items()
        }
        params["layers"] = {spec: _method_parameters(choice, refuse) for spec, choice in chosen.items()}
    try:
        return registry.complete(params) if refuse else registry.fill(params)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _task(cell: Cell) -> tasks.Task:
    return tasks.make({key: value for key, value in cell.task.items() if key != "version"})


@cache
def _environment(device: str) -> Environment:
    return environment.describe(device)
