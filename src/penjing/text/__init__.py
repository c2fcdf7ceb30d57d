"""Texts as token numbers, and where rows come from."""
