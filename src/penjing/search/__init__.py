"""Search for a compression plan: latency tables of this machine, bit allocation, and plans that meet a budget."""
