"""How the tokens that stay are held."""
