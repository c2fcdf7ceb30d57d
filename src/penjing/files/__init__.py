"""Atomic files and folders, JSON records, and the resumable folder of a job."""
