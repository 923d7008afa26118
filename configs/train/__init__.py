"""Configuration of `kvfrontier train`; what it does not have itself (methods, trackers) it takes from the folder above."""
