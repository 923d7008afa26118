"""Choices of the positions axis: where keys are attended."""
