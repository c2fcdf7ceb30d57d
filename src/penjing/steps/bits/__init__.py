"""Steps that round: real int8, and few bits on disk."""
