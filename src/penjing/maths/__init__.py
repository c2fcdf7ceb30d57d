"""Formulas only: arrays in, arrays out."""
