"""What the page is made with is what was released, under terms that are passed on."""

from __future__ import annotations

import pytest

from kvfrontier.analysis.report import libraries as package
from kvfrontier.analysis.report.libraries import Library, libraries, notices


def test_every_file_is_the_released_one_and_small() -> None:
    texts = [one.text for one in libraries()]
    assert sum(map(len, texts)) < 1_000_000
    assert not any("sourceMappingURL" in text for text in texts)
    there = {path.name for path in package._HERE.iterdir() if path.suffix in (".js", ".css")}
    assert there == {one.file for one in libraries()}


def test_a_changed_file_is_refused() -> None:
    (first, *_) = libraries()
    other = Library(**{**vars(first), "sha256": "0" * 64})
    with pytest.raises(ValueError, match=r"d3\.min\.js is not d3 .* sha256 differs"):
        _ = other.text


def test_copyrights_and_licences_go_along() -> None:
    text = notices()
    for one in libraries():
        assert f"{one.package} {one.version}, {one.license}. {one.copyright}" in text
    assert "Permission to use, copy, modify" in text and "Permission is hereby granted" in text
