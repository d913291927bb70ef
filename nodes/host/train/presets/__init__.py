"""Settings of a training by the family of its model, each with whoever published it."""
