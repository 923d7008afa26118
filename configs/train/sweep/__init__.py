"""Sweeps of trainings: settings, and `runs`, lists of words that make a training each."""
