"""Choices of the store axis: how tokens are held."""
