"""Devices to plan for: memory, bandwidth and peak of each, one YAML a device.

Each figure was compared with the pages that `sources` names; where these are not the vendor's own, they quote its
sheet. What no page confirms stands in `unchecked`, with where it is from. What was measured stands in records.
"""
