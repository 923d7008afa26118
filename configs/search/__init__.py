"""Searches: what is sought, and where it begins and stops."""
