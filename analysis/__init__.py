"""From records to answers: tables, fronts, figures and the report. Never imports torch."""
