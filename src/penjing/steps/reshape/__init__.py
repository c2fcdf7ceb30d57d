"""Steps that factorise a model's matrices."""
