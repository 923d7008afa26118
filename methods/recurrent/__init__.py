"""Methods whose past is a matrix of constant size."""
