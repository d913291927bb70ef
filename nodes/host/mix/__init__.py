"""A mix of adapter files as a document: its rows, stacks of other packs, recipes, and what they load."""
