"""Workloads: requests that are asked at once, each defined once for plans, runs and allocators."""
