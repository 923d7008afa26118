"""Published comparisons, one YAML each, numbered as in the table of verdicts: `kvfrontier reproduce NAME`."""
