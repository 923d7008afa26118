"""Configuration of `kvfrontier train`; methods and trackers it takes from the folder above."""
