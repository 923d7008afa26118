"""Methods. `base/NAME` is not a file: every registered method brings it, with its parameters at their defaults. A
method without a YAML here is chosen by its registered name all the same."""
