"""The record: one line of JSON that says what was run, on what, and what came of it.

A record has three blocks, `quality`, `memory` and `time`, measured in separate passes, each with a status of its own.
This module holds the schema and the append-only files; it loads no torch, since analysis reads records with it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

#: Raised whenever a reader of older records would misread newer ones.
SCHEMA_VERSION = 1

Status = Literal["ok", "oom", "infeasible", "failed", "skipped"]


class Block(BaseModel):
    """Strict base: unknown keys are an error, so that nothing is lost in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")


class Score(Block):
    """One number of a task with its 95% interval over `n` independent samples."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None
    interval: Literal["wilson", "bootstrap", "none"] = "none"
    higher_is_better: bool = True
    unit: str = ""


class Quartiles(Block):
    """Median and quartiles over `n` timed repetitions, in seconds."""

    median: float
    q1: float
    q3: float
    n: int


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
    prefix_store: bool = False


class Memory(Block):
    """The four sizes (nominal, analytic, live, peak), in bytes, of one sequence batch at one context.

    nominal    what the method claims: its saving without scales, residuals, metadata or slack
    analytic   what its closed form predicts at the end (after decoding), payload and slack apart
    live       what its state held there, payload and slack apart, host included and also given alone
    peak       the most that tensors held at once, weights and state included, in prefill and in decode
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
    workspace: int | None = None
    #: Where memory ran out: the largest context in this sweep that did fit.
    largest_fitting_context: int | None = None


class Time(Block):
    """Prefill (all chunks, seal, first logits: TTFT) and decode, timed apart, in seconds."""

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


class Cell(Block):
    """What determines a record. `method`, `task` and `protocol` are plain dictionaries of parameters; method and
    task carry their registered `name`."""

    model: str
    dtype: str
    device: str
    method: dict[str, Any]
    task: dict[str, Any]
    protocol: dict[str, Any]
    context: int
    batch: int = 1
    seed: int = 0


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

    @property
    def status(self) -> Status:
        """The worst of the three blocks."""
        order: tuple[Status, ...] = ("failed", "oom", "infeasible", "skipped", "ok")
        return min((self.quality.status, self.memory.status, self.time.status), key=order.index)
