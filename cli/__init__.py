"""Commands for users beside the nodes."""
