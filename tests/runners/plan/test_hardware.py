import re

import pytest

from kvfrontier.runners import cli
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.plan import hardware

FIGURES = {"memory_gb", "bandwidth_gb_s", "bf16_tflop_s"}


@pytest.mark.parametrize("name", hardware.names())
def test_every_figure_names_the_page_that_confirms_it_or_says_that_none_does(name):
    device = hardware.hardware(name)
    assert device.name == name
    assert device.summary
    confirmed = set()
    for page in device.sources:
        assert set(page) == {"title", "address", "confirms"}
        assert re.match(r"https?://\S+$", page["address"])
        confirmed |= set(page["confirms"])
    assert confirmed | set(device.unchecked) == FIGURES
    assert not confirmed & set(device.unchecked)


def test_the_devices_listing_shows_where_figures_are_from(capfd):
    assert cli.main(["list", "devices", "m4-max-128g"]) == 0
    out = capfd.readouterr().out
    assert "macrumors.com" in out
    assert "Apple states none" in out


@pytest.mark.parametrize("name", hardware.names())
def test_figures_are_of_the_order_of_real_devices(name):
    device = hardware.hardware(name)
    assert 16e9 <= device.memory <= 1e12
    assert 1e11 <= device.bandwidth <= 1e13
    assert 1e13 <= device.flops <= 1e16


def test_at_least_ten_devices_of_four_makers_and_processors_can_be_planned_for():
    told = " ".join(hardware.hardware(name).summary for name in hardware.names())
    assert len(hardware.names()) >= 10
    assert all(maker in told for maker in ("NVIDIA", "AMD", "Apple", "CPU"))


def test_a_misspelt_device_is_met_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'h100-80g'"):
        hardware.hardware("h100-80gb")
