"""The merge modes, one a file: what it does, its equation, what it asks for and how it is told."""
