"""A workload from the command line: its record, its id, and the report's words."""

import json

from kvfrontier.runners import cli
from kvfrontier.runners.record import load_records

WORDS = [
    "model=tiny", "tracker=none", "device=cpu", "worker.isolate=false",
    "workload.requests=[{count:3,shared:32,prompt:48,new:2}]",
]  # fmt: skip


def test_workloads_are_recorded_once_and_told_in_words(tmp_path, capfd):
    results, out = tmp_path / "results", tmp_path / "site"
    run = ["run", "-m", *WORDS, "workload=rag", "method=dense,paged", f"results={results}", "--json"]
    assert cli.main(run) == 0
    first = json.loads(capfd.readouterr().out)
    assert first["ran"] == 2
    assert {cell["status"] for cell in first["cells"]} == {"ok"}
    assert cli.main(run) == 0
    assert json.loads(capfd.readouterr().out)["ran"] == 0, "a second run finds them"
    records = load_records(results)
    assert {(r.cell.context, r.cell.batch, r.cell.task["name"]) for r in records} == {(50, 3, "none")}
    assert cli.main(["report", str(results), "-o", str(out)]) == 0
    board = (out / "leaderboard.md").read_text()
    assert "In rag 64 tokens are of a prefix that another request has too" in board
    assert "Workloads: tiny" in (out / "report.html").read_text()


def test_a_workload_and_a_search_do_not_go_together(capfd):
    assert cli.main(["run", "model=tiny", "workload=chat", "+search=max_context", "tracker=none"]) == 2
    assert "leave +search or workload away" in capfd.readouterr().err
