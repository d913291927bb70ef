"""How trainers call the layers of each model in the files that they write, a file for each trainer."""
