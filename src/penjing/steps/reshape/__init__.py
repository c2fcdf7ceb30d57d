"""Steps that give a model another form."""
