"""The report: Markdown, CSV, figures and one HTML file that opens without a network."""
