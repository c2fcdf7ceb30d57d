"""Steps that train a model: knowledge distillation, of one task or several."""
