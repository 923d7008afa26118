"""Choices of the selection axis: which tokens stay."""
