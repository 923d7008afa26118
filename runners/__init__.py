"""Everything that executes: models, sessions, tasks, meters and sweeps."""
