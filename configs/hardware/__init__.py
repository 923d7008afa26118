"""Devices to plan for: memory, bandwidth and peak of each. `source` names the vendor's sheet; the figures are still to be
compared with it one by one, so a plan's times are estimates of estimates. Measured bandwidth stands in records."""
