"""Hydra's configuration groups, one YAML a choice. Imports nothing."""
