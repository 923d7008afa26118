"""The report: its files, what they say, and what they must not do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from kvfrontier.analysis import figures, style
from kvfrontier.analysis.boards import boards
from kvfrontier.analysis.report import explained, read, tables, web, write_report
from kvfrontier.analysis.report.data import site_data
from kvfrontier.analysis.report.standings import standings
from kvfrontier.analysis.rows import FAMILIES, FLAGS

LIBRARIES = ("d3.min.js", "plot.umd.min.js", "tabulator.min.js")
EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def report(records, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("report")
    write_report(records, out)
    return out


def html_of(records) -> str:
    told = read(records)
    return web.pages(site_data(told.boards, "results", told.walls, told.served), explained(told))["report.html"]


def data_of(records) -> str:
    """What the page is told, as it stands in it."""
    (found,) = re.findall(r'id="data">(.*?)</script>', html_of(records), re.DOTALL)
    return json.dumps(json.loads(found), ensure_ascii=False)


class Tags(HTMLParser):
    """All tags with their attributes, and whether they close in order."""

    VOID = frozenset({"meta", "wbr", "br", "img", "link", "input"})

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_has_its_files(report):
    assert {str(p.relative_to(report)) for p in report.rglob("*") if p.is_file()} == {
        "leaderboard.md",
        "leaderboard.csv",
        "report.html",
        "index.html",
        *(f"data/{name}" for name in ("page.json", "rows.json", "rows.parquet")),
        *(f"assets/{name}" for name in ("page.css", "page.js", "LICENSES.txt", *LIBRARIES)),
        *(
            f"{name}.{kind}"
            for name in ("frontier", "frontier_bytes", "frontier_needle_accuracy", "decode_time", "state_bytes")
            for kind in ("png", "svg")
        ),
    }
    for picture in report.glob("*.png"):
        with Image.open(picture) as image:
            assert image.width >= 1600


def test_the_same_records_give_the_same_bytes_in_any_order(records, tmp_path):
    few = [r for r in records if r.info.label in ("dense", "sinks", "linear") and r.cell.context == 512]
    a = write_report(few, tmp_path / "a")
    b = write_report(list(reversed(few)), tmp_path / "b")
    assert [p.name for p in a] == [p.name for p in b]
    assert all(p.read_bytes() == q.read_bytes() for p, q in zip(a, b, strict=True))


def test_no_records_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"^no records in somewhere; run `kvfrontier run` first$"):
        write_report([], tmp_path, source="somewhere")
    assert not list(tmp_path.iterdir())


def test_the_csv_holds_raw_numbers_for_every_row(report):
    flat = pl.read_csv(report / "leaderboard.csv")
    assert flat.height == 39
    assert {
        "method", "flags", "model", "device", "context", "batch", "nominal_bytes", "analytic_bytes", "live_bytes",
        "peak_bytes", "share16", "bytes_read_per_token", "prefill_peak_over_weights_bytes",
        "decode_peak_over_weights_bytes", "prefill_seconds", "decode_seconds_per_token", "perplexity.agreement",
        "perplexity.agreement.low", "perplexity.agreement.n", "perplexity.agreement.rank", "perplexity.perplexity",
        "perplexity.kl", "needle.accuracy", "perplexity.agreement.front by share16", "perplexity.share16", "records",
    } <= set(flat.columns)  # fmt: skip
    dense = flat.filter(method="dense", context=1024).to_dicts()[0]
    assert dense["perplexity.agreement"] == 1.0
    assert dense["live_bytes"] == 47_185_920
    assert dense["perplexity.agreement.rank"] == 1


def test_the_markdown_has_every_method_four_sizes_and_times_at_every_context(report, records):
    text = (report / "leaderboard.md").read_text()
    for heading in ("nominal", "analytic", "live", "peak", "TTFT", "decode", "MBU", "agreement", "share16", "needle"):
        assert re.search(rf"\| [^|\n]*{heading}[^|\n]* \|", text)
    for context in ("512", "1,024", "2,048"):
        part = text.split(f"### {context} tokens")[1].split("###")[0]
        for label in {r.info.label for r in records}:
            assert f"| {label} |".replace("_", "\\_") in part
    assert "needs training" in text
    assert "![" in text.split("###")[0]


def test_every_table_shows_the_flags(report):
    for part in (report / "leaderboard.md").read_text().split("\n\n"):
        for line in part.splitlines():
            if line.startswith("| linear |"):
                assert "needs training" in line
    (board,) = json.loads((report / "data" / "page.json").read_text())["boards"]
    linear = [row for row in board["rows"] if row["method"] == "linear"]
    assert linear and all("needs training" in row["flags"] for row in linear)
    assert all("needs training" in point["tip"] for row in linear for point in row["points"].values())


@pytest.mark.parametrize(
    ("form", "policy"),
    [
        ("report.html", "default-src 'none'; script-src 'sha256-"),
        ("index.html", "default-src 'none'; script-src 'self'; connect-src 'self'; "),
    ],
)
def test_the_page_is_well_formed_and_lets_no_other_script_run(report, form, policy):
    tags = Tags((report / form).read_text())
    assert tags.open == []
    for tag, attributes in tags.found:
        assert tag not in ("iframe", "object", "embed", "base", "img")
        for name in ("src", "href", "xlink:href", "action"):
            assert re.match(r"#|assets/", attributes.get(name) or "#")
        assert not any(name.startswith("on") for name in attributes)
    ids = [attributes["id"] for _, attributes in tags.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    (found,) = [a.get("content") or "" for t, a in tags.found if t == "meta" and "http-equiv" in a]
    assert found.startswith(policy)
    assert "unsafe-inline" not in found.split("style-src")[0] and "http" not in found


def test_both_forms_hold_the_same_data_and_the_rows_are_parquet_too(report):
    (inside,) = re.findall(r'id="data">(.*?)</script>', (report / "report.html").read_text(), re.DOTALL)
    assert json.loads(inside) == json.loads((report / "data" / "page.json").read_text())
    flat = pl.read_parquet(report / "data" / "rows.parquet")
    assert flat.height == len(json.loads((report / "data" / "rows.json").read_text())) == 39
    assert flat.columns == pl.read_csv(report / "leaderboard.csv").columns


def test_every_family_has_a_colour_and_a_shape_of_its_own():
    assert set(style.LOOKS) == set(FAMILIES)
    looks = [*style.LOOKS.values(), style.OTHER]
    assert len({look.path for look in looks}) == len({look.light for look in looks}) == len(looks)


def test_text_from_records_is_escaped(cell_of):
    hostile = [
        cell_of("dense", cell__model=EVIL, environment__device_name=EVIL, info__label=EVIL, info__family=EVIL),
        cell_of(
            "sinks",
            cell__model=EVIL,
            environment__device_name=EVIL,
            info__label="ok",
            quality={"status": "failed", "reason": EVIL},
            memory={"status": "oom", "reason": EVIL},
        ),
    ]
    text = html_of(hostile)
    tags = Tags(text)
    assert sum(tag == "script" for tag, _ in tags.found) == 1 + len(LIBRARIES) + 1
    assert not any(tag == "img" for tag, _ in tags.found)
    assert not any(name.startswith("on") for _, attributes in tags.found for name in attributes)
    assert "\\u003cscript>" in text
    assert "<script" not in tables.markdown([(b, standings(b)) for b in boards(hostile)], {})


def test_what_did_not_run_is_told_with_the_largest_context_that_fitted(cell_of):
    failed = cell_of(
        "dense",
        2048,
        quality={"status": "oom", "reason": "1.2 GiB too much"},
        memory={"status": "oom", "reason": "1.2 GiB too much", "largest_fitting_context": 1024},
        time={"status": "infeasible", "reason": "no budget"},
    )
    found = [cell_of("dense"), cell_of("sinks"), failed]
    markdown = tables.markdown([(b, standings(b)) for b in boards(found)], {})
    for document in (data_of(found), markdown):
        assert "out of memory" in document
        assert "infeasible" in document
        assert "1.2 GiB too much" in document
    assert "largest context that fitted: 1,024" in markdown
    assert '"memory", "out of memory", "1.2 GiB too much", 1024]' in data_of(found)


def test_query_aware_columns_say_so(cell_of):
    prompt = {"name": "needle", "compress_at": "prompt", "samples": 8}
    found = [
        cell_of("snapkv", task="needle"),
        cell_of("snapkv", task="needle", cell__task=prompt, quality__task_hash="other"),
    ]
    markdown = tables.markdown([(b, standings(b)) for b in boards(found)], {})
    assert "needle (compress\\_at=prompt): accuracy (query-aware)" in markdown
    asked = markdown.split("Pareto front by needle (compress\\_at=prompt)")[1].split("\n\n")[1]
    assert "| snapkv | query-aware |" in asked
    assert markdown.count("| snapkv | query-aware |") == 1, "it did not see the question where the task gave none"


def test_a_second_machine_gets_figures_and_a_table_of_its_own(cell_of, tmp_path):
    here = [cell_of(m) for m in ("dense", "sinks", "kivi4")]
    there = [cell_of(m, environment__device_name="H200") for m in ("dense", "sinks")]
    names = {p.name for p in write_report(here + there, tmp_path)}
    assert {"frontier.png", "frontier-2.png", "decode_time-2.svg"} <= names
    page = json.loads((tmp_path / "data" / "page.json").read_text())
    assert [board["machine"] for board in page["boards"]] == ["Intel Xeon 8370C, 2 threads", "H200, 2 threads"]
    assert (tmp_path / "leaderboard.md").read_text().count("\n## ") == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"quality": {"status": "failed"}, "memory": {"status": "oom"}, "time": {"status": "oom"}},
        {"time": {"status": "skipped"}},
        {"memory": {"status": "failed"}},
        {"quality__scores__agreement__value": float("nan")},
        {"quality__scores__perplexity__value": float("inf")},
        {"quality__samples": ()},
        {"quality__scores__agreement__low": None, "quality__scores__agreement__high": None},
    ],
)
def test_a_single_incomplete_record_is_reported(cell_of, tmp_path, changes):
    written = write_report([cell_of("dense", **changes)], tmp_path)
    assert {"leaderboard.md", "leaderboard.csv", "report.html"} <= {p.name for p in written}


def test_the_reasons_for_the_front_are_told_in_words(records):
    (board,) = boards(records)
    words = standings(board)["needle.accuracy", 1024].words
    assert words.startswith("On the front, smallest first: sinks_original (26.7%, 0.250), snapkv (26.7%, 0.250), kivi2")
    assert "not significantly worse than dense is kivi2: 29.6% of dense attention's, at" in words


def test_a_score_that_all_share_is_said_to_tell_nothing(cell_of):
    zero = {"quality__scores__agreement__value": 0.0}
    (board,) = boards([cell_of("dense", **zero), cell_of("sinks", **zero)])
    words = standings(board)["perplexity.agreement", 1024].words
    assert words == "All 2 methods score 0.000 here, so this score does not tell them apart."


def test_a_score_of_one_method_is_not_said_of_all(cell_of):
    (board,) = boards([cell_of("dense"), cell_of("sinks"), cell_of("sinks", task="needle")])
    score = next(r for r in board.rows if r.method == "sinks").score(board.headlines[-1])
    assert score
    words = standings(board)["needle.accuracy", 1024].words
    assert words == f"sinks alone has this score here: {style.number(score.value)}."


def test_the_board_shows_what_grew_what_stays_bounded_and_what_is_not_known(cell_of):
    found = boards([cell_of("window"), cell_of("snapkv"), cell_of("kivi4", quality__state=None)])
    markdown = tables.markdown([(b, standings(b)) for b in found], {})
    shares = {
        line.split(" | ")[0].strip("| "): cell
        for line in markdown.split("### 1,024")[1].split("###")[0].splitlines()
        if line.startswith("| ") and (cell := re.search(r"≈?[\d.]+%( \([^)]*%\))?", line))
    }
    assert {m: c[0] for m, c in shares.items()} == {
        "window": "33.3%",
        "snapkv": "33.3% (grew by 100%)",
        "kivi4": "≈39.8%",
    }
    assert "| window | bounded |" in markdown
    assert '"flags": ["bounded"]' in data_of([cell_of("window")])


def test_the_readme_tells_of_each_column_and_flag_by_its_name(records):
    (board,) = boards(records)
    shown = {field.title for field in tables.fields(board, standings(board))}
    text = (Path(__file__).parents[2] / "README.md").read_text().split("## How to read the table")[1].split("\n## ")[0]
    told = {name for row in re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE) for name in row.split(", ")}
    # The embedded model's records have one score more than the made-up ones.
    assert told - {"Column", "Flag", "nll"} == shown | set(FLAGS)


def test_second_lines_are_said_to_be_where_they_are(report):
    markdown = (report / "leaderboard.md").read_text()
    assert "In parentheses: the 95% interval." in markdown
    assert "Small" not in markdown
    assert "Small: the 95% interval." in (report / "report.html").read_text()


@pytest.mark.parametrize("contexts", [(512,), (384, 512), (512, 4096), (512, 1024, 2048)])
def test_names_at_the_ends_of_lines_stand_where_the_lines_end(cell_of, contexts):
    (board,) = boards([cell_of(m, c) for m in ("dense", "sinks", "kivi4") for c in contexts])
    with style.style():
        drawing = figures.decode_time(board)
        drawing.figure.savefig(BytesIO(), format="svg")
    (axes,) = drawing.figure.axes
    inch = drawing.figure.dpi_scale_trans.inverted()
    edge = inch.transform(axes.transAxes.transform((1, 0)))[0]
    leaders = [x for line in axes.lines if len(x := np.asarray(line.get_xdata())) == 4]
    assert len(leaders) == 3
    last = inch.transform(axes.transData.transform((contexts[-1], 50)))[0]
    assert all(last < x[0] < x[-1] < edge + 0.25 for x in leaders)
    assert [t.get_position()[0] for t in axes.texts] == pytest.approx([edge + 0.25] * 3)


def test_titles_legends_and_feet_are_whole(cell_of):
    long = {"name": "needle", "compress_at": "prompt", "haystack": "natural text", "depth": "even", "samples": 8}
    kinds = ("dense", "sinks", "kivi4", "moving_average", "linear")
    found = [
        cell_of(m, task="needle", cell__task=task, quality__task_hash=name)
        for m in kinds
        for name, task in (("one", long), ("two", {**long, "compress_at": "context", "haystack": "noise", "depth": 1}))
    ]
    (board,) = boards([*found, *(cell_of(m) for m in kinds)])
    with style.style():
        fronts = [figures.frontier_figure(board, column) for column in board.headlines]
        for drawing in (*fronts, figures.decode_time(board)):
            drawing.figure.draw_without_rendering()
            width, height = drawing.figure.bbox.size
            below = max(box.y1 for axes in drawing.figure.axes if (box := axes.get_tightbbox()))
            for part in (*drawing.figure.texts, *drawing.figure.legends):
                box = part.get_window_extent()
                assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height
                assert box.y0 >= below - 1 or box.y1 < height / 4, "what stands above panels does not reach into them"


def test_a_front_by_share_says_what_grew_and_whose_size_is_not_known(cell_of):
    (board,) = boards([cell_of("dense"), cell_of("snapkv"), cell_of("kivi4", quality__state=None)])
    with style.style():
        figure = figures.frontier_figure(board, board.headlines[0]).figure
    (axes,) = figure.axes
    assert {t.get_text() for t in axes.texts} == {"dense", "snapkv", "kivi4 ≈"}
    assert "≈ size of the memory pass" in " ".join(t.get_text() for t in figure.texts)
    heads = [float(np.asarray(line.get_xdata())[0]) for line in axes.lines if line.get_marker() == ">"]
    assert heads == pytest.approx([1024 / 768, 512 / 768])


def test_each_figure_names_units_model_and_machine(records):
    (board,) = boards(records)
    with style.style():
        drawings = [
            figures.frontier_figure(board, board.headlines[0]),
            figures.decode_time(board),
            figures.state_bytes(board),
        ]
    for drawing in drawings:
        words = " ".join(
            [t.get_text() for t in drawing.figure.texts]
            + [a.get_xlabel() + a.get_ylabel() for a in drawing.figure.axes]
        )
        assert "smollm2-135m" in words
        assert "Intel Xeon 8370C, 2 threads, float32" in words
        assert re.search(r"MiB|state|ms", words)
        assert "needs training" in words


@pytest.mark.parametrize(("n", "said"), [(0, "0 B"), (1023, "1023 B"), (4096, "4.00 KiB"), (11_796_480, "11.2 MiB")])
def test_sizes_are_told_in_binary_units(n, said):
    assert style.size(n) == said


@pytest.mark.parametrize(("s", "said"), [(0.0412, "41.2 ms"), (3.2, "3.20 s"), (4e-6, "4.00 µs")])
def test_times_are_told_in_the_unit_a_person_would_choose(s, said):
    assert style.seconds(s) == said


def test_analysis_never_loads_torch():
    code = (
        "import sys, kvfrontier.analysis.report, kvfrontier.analysis.figures;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
