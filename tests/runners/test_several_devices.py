"""A model over several GPUs: what cannot be is refused before anything is loaded."""

from __future__ import annotations

import pytest

from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.models.pretrained import Pretrained


@pytest.mark.parametrize(
    ("device_map", "device", "words"),
    [("auto", "cpu", "device_map=auto needs device=cuda, and this is cpu"), ("most", "cpu", "no model.device_map")],
)
def test_a_map_that_cannot_be_is_refused(device_map, device, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        Pretrained(path=str(tmp_path), device_map=device_map, device=device).load()
