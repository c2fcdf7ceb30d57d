"""Texts: reading rows from files, labels, encoding to token ids, overlap, and vocabulary pruning."""
