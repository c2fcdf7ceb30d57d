"""Steps that cut: heads, neurons, layers, units, tokens, single weights."""
