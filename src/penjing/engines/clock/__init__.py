"""Measuring: how fast, on which machine, and whether it is quiet."""
