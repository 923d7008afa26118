"""Tasks of the trained track: what is trained on (`train`) and what is asked (`test`)."""
