"""Where metrics are followed while a sweep runs."""
