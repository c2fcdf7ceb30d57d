"""Files that are whole or not there, and the resumable folder."""
