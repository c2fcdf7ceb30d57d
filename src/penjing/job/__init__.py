"""Compression jobs: the request (budget, recipe, data), the pipeline that carries it out, the proof and the delivery."""
