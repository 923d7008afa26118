"""The page in a real browser: what a reader sees and does there, with a pointer, a keyboard and a phone."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvfrontier.analysis.report import read, web
from kvfrontier.analysis.report.data import site_data
from kvfrontier.runners.record import Record

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="THE PAGE WAS NOT OPENED IN A BROWSER: playwright is missing; run make dev"
)
EVIL = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>'
NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"THE PAGE WAS NOT OPENED IN A BROWSER: none of {', '.join(NAMES)} is on PATH; install chromium")
    with sync_api.sync_playwright() as playwright:
        # A container has no user namespaces for the sandbox.
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


class Seen:
    """A page, and what the browser said and asked for while it was open."""

    def __init__(self, browser: Any, url: str, **context: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1200, "height": 900}, **context)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector("html[data-ready=true]", state="attached")

    def points(self, figure: str = "#front-figure") -> dict[str, tuple[float, float]]:
        """Where the marks stand, by method."""
        boxes = self.page.eval_on_selector_all(
            f"{figure} .point",
            "nodes => nodes.map(n => [n.dataset.method, n.getAttribute('transform').match(/[-\\d.]+/g)])",
        )
        return {method: (float(x), float(y)) for method, (x, y, *_) in boxes}

    def rows(self) -> list[str]:
        """The board's methods, from the top."""
        return self.page.locator("#board-table .tabulator-row .link").all_inner_texts()


@pytest.fixture(scope="module")
def site(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(records, tmp_path_factory.mktemp("site"))


def written(records: list[Record], folder: Path, facts: dict[str, Any] | None = None) -> Path:
    told = read(records)
    for name, text in web.pages(site_data(told.boards, "results", told.walls, told.served, facts), []).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def opened(browser: Any, site: Path) -> Iterator[Callable[..., Seen]]:
    """Opens report.html, of another folder where one is given; afterwards nothing was said and nobody was asked."""
    pages: list[Seen] = []

    def open_one(folder: Path = site, fragment: str = "", **context: Any) -> Seen:
        pages.append(Seen(browser, (folder / "report.html").as_uri() + fragment, **context))
        return pages[-1]

    yield open_one
    for seen in pages:
        assert seen.said == []
        assert [url for url in seen.asked if not url.startswith("file://")] == []
        assert len(seen.asked) == 1
        seen.context.close()


def test_it_opens_from_disk_alone_and_draws_every_section(opened: Callable[..., Seen]) -> None:
    seen = opened()
    for section in ("frontier", "board", "cost", "methods", "advice"):
        assert seen.page.locator(f"#{section}").is_visible()
    assert set(seen.points()) > {"dense", "kivi2", "linear"}
    assert "13 of 13 methods shown" in seen.page.inner_text("#facts")
    assert seen.page.locator("#cost-figure svg").count() >= 1


def test_a_filter_hides_a_family_everywhere_and_leaves_the_front(opened: Callable[..., Seen]) -> None:
    seen = opened()
    words = seen.page.inner_text("#front-words")
    assert "kivi4" in seen.points() and "kivi4" in seen.rows()
    seen.page.get_by_label("store", exact=True).uncheck()
    assert not {"kivi2", "kivi4", "kivi8"} & ({*seen.points()} | {*seen.rows()} | {*seen.points("#cost-figure")})
    assert seen.page.inner_text("#front-words") == words
    seen.page.get_by_text("Flags and tags").click()
    seen.page.locator("#filter-flags").get_by_text("needs training").click()
    assert "linear" not in seen.points() and "dense" in seen.points()


def test_a_heading_sorts_up_and_down_and_what_is_missing_stays_last(opened: Callable[..., Seen]) -> None:
    seen = opened()
    heading = seen.page.locator("#board-table button.heading", has_text="agreement").first
    heading.focus()
    seen.page.keyboard.press("Enter")
    best = seen.rows()
    assert {best[0], best[1]} == {"dense", "recompute"} and best[-1] == "linear"
    heading.click()
    assert seen.rows()[0] == "linear"


def test_the_slider_goes_through_the_contexts_by_keyboard(opened: Callable[..., Seen]) -> None:
    seen = opened()
    slider = seen.page.locator("#front-context")
    slider.focus()
    found = []
    for key in ("Home", "ArrowRight", "End"):
        seen.page.keyboard.press(key)
        found.append((seen.page.inner_text("#front-context-said"), seen.points()["kivi4"]))
    assert [said for said, _ in found] == ["512 tokens", "1,024 tokens", "2,048 tokens"]
    assert len({place for _, place in found}) == 3
    assert slider.get_attribute("aria-valuetext") == "2,048 tokens"


def test_points_are_reached_by_arrows_and_tell_their_full_record(opened: Callable[..., Seen]) -> None:
    seen = opened()
    names = sorted(seen.points(), key=lambda method: seen.points()[method][0])
    seen.page.locator("#front-figure .point").first.focus()
    assert names[0] in seen.page.inner_text("#tip")
    seen.page.keyboard.press("ArrowRight")
    focused = seen.page.evaluate("document.activeElement.dataset.method")
    assert focused != seen.page.locator("#front-figure .point").first.get_attribute("data-method")
    assert focused in seen.page.inner_text("#tip")
    seen.page.keyboard.press("Enter")
    record = seen.page.inner_text("#record")
    for word in (focused, "agreement", "live", "Intel Xeon 8370C", "Records"):
        assert word in record
    seen.page.keyboard.press("Escape")
    assert not seen.page.locator("#record").is_visible()


def test_the_board_is_searched_and_its_columns_are_chosen(opened: Callable[..., Seen]) -> None:
    seen = opened()
    seen.page.fill("#board-search", "selection fixed")
    assert set(seen.rows()) == {"window", "window512", "sinks", "sinks_original"}
    seen.page.fill("#board-search", "")
    heads = seen.page.locator("#board-table .heading", has_text="nominal")
    assert not heads.is_visible()
    seen.page.locator("#board-columns summary").click()
    seen.page.locator("#board-fields").get_by_label("nominal").check()
    assert heads.is_visible()
    seen.page.select_option("#board-budget", "most:0.25")
    assert "dense" in seen.rows() and "kivi8" not in seen.rows()
    assert "at most 25%" in seen.page.inner_text("#board-said")


@pytest.mark.slow
def test_a_budget_shows_what_was_matched_to_it(opened: Callable[..., Seen], cell_of, tmp_path) -> None:
    budget = {"asked": "25%", "limit": 1000, "knob": "window", "value": 100, "got": 990}
    found = [cell_of("dense"), cell_of("sinks", cell__budget=budget), cell_of("window")]
    seen = opened(written(found, tmp_path))
    seen.page.select_option("#board-budget", "budget:25%")
    assert seen.rows() == ["dense", "sinks"]


def test_scores_of_two_task_hashes_stand_in_two_columns(opened: Callable[..., Seen], cell_of, tmp_path) -> None:
    aware = {"name": "needle", "compress_at": "prompt", "samples": 8}
    found = [cell_of(m, task="needle") for m in ("dense", "snapkv")]
    found += [cell_of(m, task="needle", cell__task=aware, quality__task_hash="other") for m in ("dense", "snapkv")]
    seen = opened(written(found, tmp_path))
    groups = seen.page.locator("#board-table .tabulator-col-group").all_inner_texts()
    assert sum("needle" in group for group in groups) == 2
    assert seen.page.locator("#front-column option").count() == 2


@pytest.mark.slow
def test_another_machine_is_another_choice_and_never_beside(opened: Callable[..., Seen], cell_of, tmp_path) -> None:
    here = [cell_of(m) for m in ("dense", "sinks", "kivi4")]
    there = [cell_of(m, environment__device_name="H200") for m in ("dense", "kivi2")]
    seen = opened(written(here + there, tmp_path))
    assert set(seen.rows()) == {"dense", "sinks", "kivi4"}
    seen.page.select_option("#pick-machine", label="H200, 2 threads")
    assert set(seen.rows()) == set(seen.points()) == {"dense", "kivi2"}


def test_text_from_records_stays_text(opened: Callable[..., Seen], cell_of, tmp_path) -> None:
    hostile = {"cell__model": EVIL, "environment__device_name": EVIL, "info__paper": EVIL, "info__tags": (EVIL,)}
    wrong = [
        {"targets": [EVIL], "generation": EVIL, "keys": [EVIL], "correct": False, "depth": i / 7} for i in range(8)
    ]
    found = [
        cell_of("dense", **hostile, info__label=EVIL, info__family=EVIL),
        cell_of("sinks", **hostile, memory={"status": "oom", "reason": EVIL}),
        cell_of("dense", task="needle", **hostile, info__label=EVIL, quality__samples=wrong, quality__task=EVIL),
    ]
    seen = opened(written(found, tmp_path))
    seen.page.locator("#front-figure .point").first.focus()
    seen.page.locator("#board-table .link").first.click()
    assert seen.page.evaluate("[window.hit, document.images.length]") == [None, 0]
    assert EVIL in seen.page.inner_text("#record")
    assert EVIL in seen.page.inner_text("#method")


def test_a_method_has_an_address_a_formula_and_its_failures(opened: Callable[..., Seen], cell_of, tmp_path) -> None:
    wrong = [{"targets": ["17"], "generation": "I see no number", "correct": i > 0, "depth": i / 7} for i in range(8)]
    found = [cell_of("dense"), cell_of("kivi4"), cell_of("kivi4", task="needle", quality__samples=wrong)]
    facts = {"methods": {'{"bits":4,"name":"kivi"}': {"description": "Keys per channel.", "cost": "2 Hkv d T b/16"}}}
    seen = opened(written(found, tmp_path, facts), "#method/kivi4")
    told = seen.page.inner_text("#method")
    for word in ("Keys per channel.", "2 Hkv d T b/16", "I see no number", "1 of 8 were wrong", "method.bits=4"):
        assert word in told
    assert seen.page.locator("#method svg[aria-label*='kivi4 at 1,024 tokens']").count() == 1


@pytest.mark.slow
def test_a_search_up_to_the_wall_is_drawn_crossed_and_listed(opened: Callable[..., Seen], cell_of, tmp_path) -> None:
    probes = [
        {"size": n, "status": "ok", "state": n * 1000, "decode": 0.01, "prefill": 1.0} for n in (1024, 2048, 6656)
    ]
    search = {"kind": "max_context", "found": 6656, "bound": "memory", "step": 512, "probes": probes}
    asked = {"cell__search": {"name": "max_context"}, "cell__context": 0, "search": search}
    for folder, boards in (("alone", []), ("beside", [cell_of("dense")])):
        (tmp_path / folder).mkdir()
        seen = opened(written([*boards, cell_of("dense", **asked)], tmp_path / folder))
        if boards:
            seen.page.select_option("#cost-from", "wall0")
        assert seen.page.locator("#cost-figure .cross").count() == 1
        assert seen.page.locator("#cost-figure .point").count() == 3
        seen.page.locator("#wall-details summary").click()
        assert "6,656" in seen.page.inner_text("#wall-table")


@pytest.mark.slow
def test_needles_stand_side_by_side(opened: Callable[..., Seen], cell_of, tmp_path) -> None:
    samples = [{"targets": ["1"], "generation": "1", "correct": i < 4, "depth": i / 7} for i in range(8)]
    found = [cell_of(m, task="needle", quality__samples=samples) for m in ("dense", "sinks")]
    seen = opened(written(found, tmp_path))
    maps = seen.page.locator("#needle-maps figure > svg")
    assert maps.count() == 2
    assert "depth 100%: 0 of 1" in (maps.first.get_attribute("aria-label") or "")


def test_advice_says_what_is_measured_and_what_is_predicted(opened: Callable[..., Seen], cell_of, tmp_path) -> None:
    kinds = ("dense", "sinks", "kivi8", "kivi2")
    found = [cell_of(m) for m in kinds]
    keys = ['{"name":"dense"}', '{"bits":8,"name":"kivi"}', '{"bits":2,"name":"kivi"}']
    held = (1_000_000, 600_000, 200_000)
    planner = {
        "contexts": [1024, 4096],
        "devices": [{"name": "small", "summary": "", "is_host": False, "memory": 3_500_000, "bandwidth": 1e9}],
        "models": {"other": {"weights": 2_000_000}},
        "sizes": {"other": {key: [[n, n, n], [4 * n, 4 * n, n]] for key, n in zip(keys, held, strict=True)}},
    }
    seen = opened(written(found, tmp_path, {"planner": planner}))
    assert "bytes and seconds are measured" in seen.page.inner_text("#advice-words")
    for field, value in (("model", "other"), ("device", "small"), ("context", "4096"), ("how", "any")):
        seen.page.select_option(f"#advice-{field}", value)
    words = seen.page.inner_text("#advice-words")
    assert words.startswith("kivi2:") and "predicted" in words and "another model than yours" in words
    lines = seen.page.locator("#advice-table tbody tr").all_inner_texts()
    assert [line.split()[0] for line in lines] == ["kivi2", "kivi8", "dense"]
    assert "fits" in lines[0] and "does not fit" in lines[-1]
    assert "kvfrontier plan model=other method=kivi" in lines[0]


def test_a_phone_a_dark_room_and_paper(opened: Callable[..., Seen]) -> None:
    seen = opened(color_scheme="dark")
    seen.page.set_viewport_size({"width": 400, "height": 800})
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 400
    background = "getComputedStyle(document.body).backgroundColor"
    dark = seen.page.evaluate(background)
    seen.page.click("#theme")
    assert seen.page.evaluate(background) != dark
    seen.page.emulate_media(media="print")
    seen.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert seen.page.locator("#board-print tbody tr").count() == 13
    assert not seen.page.locator("#board-table").is_visible()


def test_the_folder_form_is_the_same_from_a_server_and_asks_no_other(browser: Any, site: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}/"
        seen = Seen(browser, home)
        assert set(seen.points()) > {"dense", "kivi2"}
        assert all(url.startswith(home) for url in seen.asked)
        assert [text for text in seen.said if "favicon" not in text and "404" not in text] == []
        seen.context.close()
        server.shutdown()


@pytest.mark.slow
def test_ten_thousand_records_are_there_in_two_seconds(browser: Any, records: list[Record], tmp_path: Path) -> None:
    """As many rows as the records would make if each had a row of its own: more than a sweep of tasks gives."""
    told = read(records)
    data = site_data(told.boards, "results")
    (board,) = data["boards"]
    # 260 methods at 39 contexts.
    rows = [
        {**row, "method": f"{row['method']} {i % 20}", "context": row["context"] * (8 + i // 20)}
        for i in range(260)
        for row in board["rows"]
    ][:10_000]
    contexts = sorted({row["context"] for row in rows})
    shown = {"rows": rows, "records": len(rows), "contexts": contexts, "fullest": contexts[-1]}
    data["boards"] = [board | shown]
    (tmp_path / "report.html").write_text(web.pages(data, [])["report.html"], encoding="utf-8")
    seen = Seen(browser, (tmp_path / "report.html").as_uri())
    took = int(seen.page.get_attribute("html", "data-drawn") or 0)
    assert seen.said == []
    seen.page.select_option("#board-context", "")
    assert "10000 of 10000 rows" in seen.page.inner_text("#board-said")
    assert 0 < took < 2000, f"{took} ms"
    seen.context.close()
