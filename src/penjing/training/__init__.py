"""The training loop, batching by length, and the teacher's cached outputs."""
