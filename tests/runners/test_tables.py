"""Tables are as wide as their reader."""

from __future__ import annotations

import pytest

from kvfrontier.runners.tables import show_table


@pytest.mark.parametrize(("columns", "widest"), [(None, 200), ("60", 60)])
def test_a_piped_table_is_wide_unless_columns_says_how_wide(capsys, monkeypatch, columns, widest):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    show_table(None, ("name", "about"), [("a", "word " * 100)])
    assert max(map(len, capsys.readouterr().out.splitlines())) == widest
