"""Steps that teach."""
