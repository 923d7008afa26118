"""At which positions keys are attended."""
