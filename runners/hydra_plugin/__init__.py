"""What Hydra finds under `hydra_plugins.kvfrontier`: a thin adapter, whose work is done in runners/sweep/."""
