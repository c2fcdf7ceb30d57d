"""Quantization steps: int8 that engines compute in, and weights stored in few bits."""
