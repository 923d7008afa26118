"""Sparse patterns of attention: those a model is trained with, kinds of heads, and prefill that skips blocks."""
