"""report.json as a page, a model card, and pictures."""
