"""Compression steps: each observes a model, plans and applies; and the stages that run them in a job."""
