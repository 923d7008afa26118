from dataclasses import replace

import pytest

from kvfrontier.runners import packages
from kvfrontier.runners.cache import sha256_of
from kvfrontier.runners.errors import UsageError


def test_a_package_is_fetched_once_and_nothing_is_left_beside_it(wheelhouse, empty_cache, monkeypatch):
    package = wheelhouse.put("thing", {"thing/data": b"data"})
    path = packages.fetch(package)
    assert path == empty_cache / "packages" / package.filename
    assert sha256_of(path) == package.sha256
    assert not list(path.parent.glob("*.part"))
    assert not list(path.parent.glob(".*.part"))
    monkeypatch.setattr(packages, "_download", None)
    assert packages.fetch(package) == path


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\0" + b[1:]])
def test_a_broken_download_heals(wheelhouse, empty_cache, damage):
    package = wheelhouse.put("thing", {"thing/data": b"data"})
    path = packages.fetch(package)
    path.write_bytes(damage(path.read_bytes()))
    assert sha256_of(packages.fetch(package)) == package.sha256


def test_a_file_put_there_by_hand_needs_no_network(wheelhouse, empty_cache):
    package = wheelhouse.put("thing", {"thing/data": b"data"})
    (empty_cache / "packages").mkdir(parents=True)
    (wheelhouse.folder / package.filename).rename(empty_cache / "packages" / package.filename)
    assert packages.fetch(package).exists()


def test_another_file_than_the_pinned_one_is_refused(wheelhouse, empty_cache):
    package = replace(wheelhouse.put("thing", {"thing/data": b"data"}), sha256="0" * 64)
    with pytest.raises(UsageError, match=r"cannot fetch thing==1\.0.*hash"):
        packages.fetch(package)
    assert not (empty_cache / "packages" / package.filename).exists()


def test_what_cannot_be_found_is_named_with_where_to_put_it(wheelhouse, empty_cache):
    package = packages.Package("absent==1.0", "absent-1.0-py3-none-any.whl", "0" * 64, 1)
    with pytest.raises(UsageError, match=r"cannot fetch absent==1\.0") as caught:
        packages.fetch(package)
    assert str(empty_cache / "packages") in str(caught.value)
