"""Fronts against an oracle, and verdicts on examples."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvfrontier.analysis.boards import boards
from kvfrontier.analysis.frontier import Point, Verdict, dominates, front, judge, points, verdicts

# Few different values, so that ties are common.
SMALL = st.integers(0, 4).map(float)


@st.composite
def clouds(draw: st.DrawFn) -> list[Point]:
    respects = draw(st.integers(1, 2))
    points = draw(st.lists(st.tuples(SMALL, st.tuples(*[SMALL] * respects), st.booleans()), max_size=12))
    return [Point(f"m{i}", quality, costs, competes) for i, (quality, costs, competes) in enumerate(points)]


def beaten(point: Point, field: list[Point]) -> bool:
    """The definition, spelt out: somebody as good in everything, and better in something."""
    for other in field:
        mine = (point.quality, *(-c for c in point.costs))
        theirs = (other.quality, *(-c for c in other.costs))
        as_good = [t >= m for t, m in zip(theirs, mine, strict=True)]
        better = [t > m for t, m in zip(theirs, mine, strict=True)]
        if all(as_good) and any(better):
            return True
    return False


@given(clouds())
def test_the_front_is_what_nobody_beats(points):
    field = [p for p in points if p.competes]
    assert {p.name for p in front(points)} == {p.name for p in field if not beaten(p, field)}


@given(clouds())
def test_every_dominated_point_is_dominated_by_somebody_on_the_front(points):
    found = judge(points)
    names = {p.name: p for p in points}
    on = {p.name for p in front(points)}
    for name, verdict in found.items():
        assert (verdict.standing == "front") == (name in on)
        assert set(verdict.by) == {o for o in on if dominates(names[o], names[name])}
        assert (verdict.standing == "dominated") == (names[name].competes and bool(verdict.by))


@given(clouds(), st.randoms())
def test_the_order_of_the_points_does_not_matter(points, random):
    shuffled = list(points)
    random.shuffle(shuffled)
    assert front(shuffled) == front(points)
    assert judge(shuffled) == judge(points)


def test_equals_are_on_the_front_together():
    found = judge([Point("a", 1.0, (2.0,)), Point("b", 1.0, (2.0,)), Point("c", 1.0, (3.0,))])
    assert [found[n].standing for n in "abc"] == ["front", "front", "dominated"]
    assert found["c"] == Verdict("dominated", ("a", "b"))


def test_a_place_above_a_cheaper_method_by_no_more_than_noise_is_said_to_be_noise():
    points = [Point("small", 0.90, (1.0,)), Point("large", 0.91, (2.0,))]
    assert not judge(points, lambda a, b: True)["large"].within_noise
    assert judge(points, lambda a, b: False)["large"].within_noise
    assert judge(points, lambda a, b: None)["large"].words == "on the front (within noise)"
    assert not judge(points, lambda a, b: False)["small"].within_noise


def test_a_defeat_by_no_more_than_noise_is_said_to_be_noise():
    points = [Point("winner", 0.91, (1.0,)), Point("loser", 0.90, (2.0,)), Point("twin", 0.91, (3.0,))]
    found = judge(points, lambda a, b: False)
    assert found["loser"].words == "dominated by winner (within noise)"
    assert found["twin"].words == "dominated by winner"
    assert judge(points, lambda a, b: True)["loser"].words == "dominated by winner"


def test_what_does_not_compete_beats_nobody_and_is_beaten():
    found = judge([Point("free", 1.0, (0.0,), competes=False), Point("a", 0.5, (1.0,)), Point("b", 0.4, (2.0,), False)])
    assert found["a"].standing == "front"
    assert found["free"].words == "does not compete"
    assert found["b"].words == "does not compete; dominated by a"


def test_recompute_competes_only_where_time_counts(records):
    (board,) = boards(records)
    rows, column = board.at(1024), board.headlines[0]
    assert verdicts(rows, column)["recompute"].standing == "reference"
    assert verdicts(rows, column, "bytes")["recompute"].standing == "reference"
    assert verdicts(rows, column, "share and time")["recompute"].standing == "front"
    assert verdicts(rows, column)["linear"].standing == "reference"
    assert verdicts(rows, column, "share and time")["linear"].standing == "reference"


def test_a_text_memory_does_not_compete_by_its_share_at_seal(cell_of):
    window = cell_of("window")
    info = window.info.model_copy(update={"tags": ("growing", "external", "lossy")})
    (board,) = boards([cell_of("dense"), window.model_copy(update={"info": info})])
    column = board.headlines[0]
    assert verdicts(board.rows, column)["window"].standing == "reference"
    assert verdicts(board.rows, column, "share and time")["window"].standing == "reference"
    assert verdicts(board.rows, column, "bytes")["window"].standing != "reference"


def test_quantization_looks_better_by_bytes_of_an_fp32_run_than_by_share(records):
    (board,) = boards(records)
    rows, column = board.at(1024), board.headlines[0]
    assert "kivi4" in verdicts(rows, column, "bytes")["sinks"].by
    assert "kivi4" not in verdicts(rows, column)["sinks"].by


def test_what_dropped_nothing_where_it_was_scored_costs_what_dense_costs(cell_of):
    """A budget of 256 tokens at context 512: the text is sealed at 256 tokens, the memory pass at 480."""
    (board,) = boards([cell_of("dense", 512), cell_of("snapkv", 512)])
    costs = {cost: [p.costs for p in points(board.rows, board.headlines[0], cost)] for cost in ("share", "bytes")}
    assert costs["share"] == [(1.0,), (1.0,)]
    assert costs["bytes"][0] == costs["bytes"][1]
    dense, snapkv = board.rows
    assert (dense.memory.share16, snapkv.memory.share16) == (1.0, 0.5)


def test_less_perplexity_is_more_quality(records):
    (board,) = boards(records)
    column = next(c for c in board.columns if c.score == "perplexity")
    assert "window" not in [m for m, v in verdicts(board.at(2048), column).items() if v.standing == "front"]


def test_rows_without_a_score_or_bytes_are_left_out(cell_of):
    (board,) = boards([cell_of("dense"), cell_of("sinks", quality__state=None, memory={"status": "oom"})])
    assert set(verdicts(board.rows, board.headlines[0])) == {"dense"}


def test_a_score_has_its_share_where_the_memory_pass_ran_out(cell_of):
    (board,) = boards([cell_of("dense"), cell_of("sinks", memory={"status": "oom"})])
    assert set(verdicts(board.rows, board.headlines[0])) == {"dense", "sinks"}
