"""Sweeps: experiment files that choose axes (`hydra.sweeper.params`) and leave cells out (`hydra.sweeper.exclude`)."""
