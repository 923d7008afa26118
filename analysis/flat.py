"""Boards -> one flat table, a line a row, with raw numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from kvfrontier.analysis.rows import Board, Column, Row, canonical


def table(found: Sequence[Board]) -> pl.DataFrame:
    """All rows of all boards as one polars table; bytes and seconds as measured, flags joined by "; ".

    A score makes five columns: value, low, high, n and status. A task makes four, of the state in the runs that gave
    its scores, empty where records do not say it.
    """
    columns = list(dict.fromkeys(c for board in found for c in board.columns))
    lines = [_line(row, columns) for board in found for row in board.rows]
    schema = dict(_SCHEMA)
    for column in columns:
        schema |= {f"{column.name}{end}": kind for end, kind in _SCORE_SCHEMA.items()}
        schema |= {f"{column.title}.{name}": pl.Float64 for name in _STATE}
    return pl.DataFrame(lines, schema=schema)


_SCHEMA: dict[str, Any] = {
    "method": pl.String, "flags": pl.String, "family": pl.String, "tags": pl.String, "parameters": pl.String,
    "model": pl.String, "revision": pl.String, "dtype": pl.String, "device": pl.String, "device_kind": pl.String,
    "threads": pl.Int64, "torch": pl.String, "transformers": pl.String, "protocol": pl.String,
    "context": pl.Int64, "batch": pl.Int64, "status": pl.String, "reason": pl.String,
    "memory_status": pl.String, "time_status": pl.String,
    "nominal_bytes": pl.Int64, "analytic_payload_bytes": pl.Int64, "analytic_slack_bytes": pl.Int64,
    "analytic_bytes": pl.Int64, "live_payload_bytes": pl.Int64, "live_slack_bytes": pl.Int64, "live_bytes": pl.Int64,
    "live_host_bytes": pl.Int64, "sealed_payload_bytes": pl.Int64, "share16": pl.Float64,
    "bytes_read_per_token": pl.Int64, "weights_bytes": pl.Int64, "peak_bytes": pl.Int64,
    "prefill_peak_over_weights_bytes": pl.Int64, "decode_peak_over_weights_bytes": pl.Int64,
    "workspace_bytes": pl.Int64, "largest_fitting_context": pl.Int64,
    "prompt_tokens": pl.Int64, "decoded_tokens": pl.Int64, "chunk": pl.Int64, "repetitions": pl.Int64,
    "prefill_seconds": pl.Float64, "prefill_q1_seconds": pl.Float64, "prefill_q3_seconds": pl.Float64,
    "prefill_tokens_per_second": pl.Float64,
    "decode_seconds_per_token": pl.Float64, "decode_q1_seconds_per_token": pl.Float64,
    "decode_q3_seconds_per_token": pl.Float64, "decode_tokens_per_second": pl.Float64, "mbu": pl.Float64,
    "copy_bandwidth_bytes_per_second": pl.Float64, "records": pl.String,
}  # fmt: skip
_SCORE_SCHEMA: dict[str, Any] = {
    "": pl.Float64, ".low": pl.Float64, ".high": pl.Float64, ".n": pl.Int64, ".status": pl.String
}  # fmt: skip

_STATE = ("share16", "sealed_payload_bytes", "final_payload_bytes", "growth")


def _line(row: Row, columns: Sequence[Column]) -> dict[str, Any]:
    setting, memory, time = row.setting, row.memory, row.time
    line: dict[str, Any] = {
        "method": row.method,
        "flags": "; ".join(row.flags),
        "family": row.info.family,
        "tags": "; ".join(row.info.tags),
        "parameters": canonical(row.parameters),
        "model": setting.model,
        "revision": setting.revision,
        "dtype": setting.dtype,
        "device": setting.device,
        "device_kind": setting.device_kind,
        "threads": setting.threads,
        "torch": setting.torch,
        "transformers": setting.transformers,
        "protocol": setting.protocol,
        "context": row.context,
        "batch": setting.batch,
        "status": row.status,
        "reason": row.reason,
        "memory_status": memory.status,
        "time_status": time.status,
        "nominal_bytes": memory.nominal,
        "analytic_payload_bytes": memory.analytic_payload,
        "analytic_slack_bytes": memory.analytic_slack,
        "analytic_bytes": row.analytic,
        "live_payload_bytes": memory.live_payload,
        "live_slack_bytes": memory.live_slack,
        "live_bytes": row.live,
        "live_host_bytes": memory.live_host,
        "sealed_payload_bytes": memory.sealed_payload,
        "share16": memory.share16,
        "bytes_read_per_token": memory.bytes_read,
        "weights_bytes": memory.weights,
        "peak_bytes": memory.peak,
        "prefill_peak_over_weights_bytes": row.over_weights(memory.prefill_peak),
        "decode_peak_over_weights_bytes": row.over_weights(memory.decode_peak),
        "workspace_bytes": memory.workspace,
        "largest_fitting_context": memory.largest_fitting_context,
        "prompt_tokens": time.prompt_tokens or memory.prompt_tokens,
        "decoded_tokens": time.decoded_tokens or memory.decoded_tokens,
        "chunk": time.chunk or memory.chunk,
        "repetitions": time.repetitions,
        "prefill_seconds": time.prefill and time.prefill.median,
        "prefill_q1_seconds": time.prefill and time.prefill.q1,
        "prefill_q3_seconds": time.prefill and time.prefill.q3,
        "prefill_tokens_per_second": time.prefill_tokens_per_second,
        "decode_seconds_per_token": row.seconds_per_token,
        "decode_q1_seconds_per_token": time.decode and time.decode.q1,
        "decode_q3_seconds_per_token": time.decode and time.decode.q3,
        "decode_tokens_per_second": time.decode_tokens_per_second,
        "mbu": time.mbu,
        "copy_bandwidth_bytes_per_second": time.copy_bandwidth,
        "records": "; ".join(row.records),
    }
    for column in columns:
        answer = row.answers.get(column)
        score = answer.score if answer else None
        values = (score.value, score.low, score.high, score.n) if score else (None, None, None, None)
        status = answer.status if answer else "skipped"
        line |= {f"{column.name}{end}": v for end, v in zip(_SCORE_SCHEMA, (*values, status), strict=True)}
        held = row.held(column)
        if score and held.own:
            state = (held.share, held.sealed, held.final, row.grew(column))
            line |= {f"{column.title}.{name}": v for name, v in zip(_STATE, state, strict=True)}
    return line
