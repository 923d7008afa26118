"""Methods that read a text in segments and carry memory tokens, or a text of their own, from one to the next."""
