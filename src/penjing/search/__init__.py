"""What to cut: the latency table of this machine, and the plan that meets the budget."""
