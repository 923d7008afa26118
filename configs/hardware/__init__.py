"""Devices to plan for: memory, bandwidth and peak of each. `source` names the vendor's sheet; the figures are still to
be compared with it one by one, so a plan's times are rough. What was measured stands in records."""
