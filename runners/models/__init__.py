"""Causal language models by name: the embedded one, any local or hub path, and random tiny ones."""
