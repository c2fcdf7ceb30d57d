"""Tasks: text ↔ arrays ↔ metric."""
