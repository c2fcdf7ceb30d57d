"""Pruning steps: heads, neurons, layers, hidden units, tokens, single weights."""
