"""Devices to plan for: memory, bandwidth and peak of each, from its vendor's sheet."""
