"""Choices of the memory axis: what becomes of tokens that leave."""
