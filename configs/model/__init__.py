"""Models: what is measured. A folder or a name on the hub is `model=hf model.path=...`."""
