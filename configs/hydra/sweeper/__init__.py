"""How a sweep becomes jobs."""
