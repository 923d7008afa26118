"""Models that are trained from random weights."""
