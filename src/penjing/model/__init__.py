"""The encoder network, its storage formats, model families, checkpoints, exact cuts, and hooks on its modules."""
