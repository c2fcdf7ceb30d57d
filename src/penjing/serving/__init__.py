"""Answers without torch."""
