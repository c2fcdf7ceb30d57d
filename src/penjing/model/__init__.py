"""The encoder and its storage; families; reading and writing; cutting; listening to parts."""
