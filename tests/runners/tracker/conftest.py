"""A stand-in for W&B's server on the loopback, and commands that are told of it."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


class StandIn(ThreadingHTTPServer):
    """As much of W&B's server as runs need. It keeps what it hears, refuses every key once `key_is_wrong`, and stops
    taking history once it has `dies_after` lines."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.key_is_wrong = False
        self.dies_after: int | None = None
        self.upserts: list[dict[str, Any]] = []
        #: History lines by run, by their place in the stream; as W&B does, a place that is sent again is overwritten.
        self.lines: dict[str, dict[int, dict[str, Any]]] = {}
        self.exits: dict[str, int] = {}
        self.artifacts: list[str] = []

    def rows(self, run: str) -> list[dict[str, Any]]:
        """The history of a run."""
        return [line for _, line in sorted(self.lines.get(run, {}).items())]

    def records(self) -> list[str]:
        """The ids of all records that were shown, in every run."""
        return [line["record"] for run in self.lines for line in self.rows(run) if "record" in line]


class Handler(BaseHTTPRequestHandler):
    """GraphQL for runs and artifacts, the file stream for history, and a place to put files."""

    server: StandIn
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self._body()
        if self.path.startswith("/graphql"):
            asked = json.loads(body)
            query, given = asked.get("query", ""), asked.get("variables") or {}
            if self.server.key_is_wrong:
                return self._send({"errors": [{"message": "user is not logged in"}]}, 401)
            return self._send({"data": self._answer(query, given)})
        if self.path.endswith("/file_stream"):
            return self._stream(json.loads(body))
        return self._send({})

    def do_PUT(self) -> None:
        self._body()
        self._send({})

    def do_GET(self) -> None:
        self._send({})

    def log_message(self, *_: Any) -> None:
        pass

    def _stream(self, said: dict[str, Any]) -> None:
        run = self.path.split("/")[-2]
        history = said.get("files", {}).get("wandb-history.jsonl")
        if history:
            there = self.server.lines.setdefault(run, {})
            for i, line in enumerate(history["content"]):
                if self.server.dies_after is not None and len(self.server.records()) >= self.server.dies_after:
                    return self._send({"error": "quota exceeded"}, 507)
                there[history["offset"] + i] = json.loads(line)
        if said.get("complete"):
            self.server.exits[run] = said.get("exitcode", 0)
        return self._send({"exitcode": None, "limits": {}})

    def _answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "cA==", "name": "kvfrontier", "entity": {"id": "ZQ==", "name": "someone"}}
        if "upsertBucket" in query:
            self.server.upserts.append(given)
            name = given.get("name") or "run"
            run = {"id": "cg==", "name": name, "displayName": given.get("displayName") or name, "config": "{}"}
            run |= {"sweepName": None, "project": project, "historyLineCount": 0}
            return {"upsertBucket": {"bucket": run, "inserted": True}}
        if "RunResumeStatus" in query:
            return {"model": {"id": "cA==", "name": "kvfrontier", "entity": project["entity"], **self._resume(given)}}
        if "createRunFiles" in query:
            return {"createRunFiles": {"runID": "cg==", "uploadHeaders": [], "files": []}}
        if "query ArtifactType" in query:
            return {"project": {"artifact": None}}
        if "createArtifact(" in query:
            self.server.artifacts.append(given.get("input", given).get("artifactTypeName", ""))
            sequence = {"id": "cw==", "latestArtifact": None}
            return {"createArtifact": {"artifact": {"id": "YQ==", "state": "COMMITTED", "artifactSequence": sequence}}}
        if "viewer" in query:
            return {"viewer": {"id": "dQ==", "entity": "someone", "username": "someone", "flags": "{}"}}
        if "serverInfo" in query:
            return {"serverInfo": {"features": [], "cliVersionInfo": {"max_cli_version": "0.99.0"}}}
        return {}

    def _resume(self, given: dict[str, Any]) -> dict[str, Any]:
        """What there is of a run that a client wants to go on with."""
        rows = self.server.rows(given.get("name", ""))
        if not rows:
            return {"bucket": None}
        last = json.dumps({"_step": max(row["_step"] for row in rows)})
        found = {"id": "cg==", "name": given["name"], "config": "{}", "wandbConfig": "{}", "tags": []}
        found |= {"historyLineCount": len(rows), "eventsLineCount": 0, "logLineCount": 0}
        found |= {"historyTail": json.dumps([last]), "eventsTail": "[]", "summaryMetrics": last}
        return {"bucket": found}

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body

    def _send(self, answer: dict[str, Any], code: int = 200) -> None:
        sent = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)


@pytest.fixture
def server() -> Iterator[StandIn]:
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def python(server: StandIn, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python in a process of its own, to which the stand-in is W&B: W&B would share ours."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        own = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_SERVICE")}
        own |= {
            "WANDB_MODE": "online",
            "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}",
            "WANDB_API_KEY": "0" * 40,
            "WANDB_CACHE_DIR": str(tmp_path / "cache"),
            "WANDB_DATA_DIR": str(tmp_path / "data"),
            "NO_PROXY": "127.0.0.1",
        }
        for name in ("https_proxy", "http_proxy", "all_proxy"):
            own.pop(name, None)
            own.pop(name.upper(), None)
        return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, env=own)

    return run
