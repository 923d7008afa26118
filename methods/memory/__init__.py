"""What becomes of the tokens that leave."""
