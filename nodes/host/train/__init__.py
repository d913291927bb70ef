"""Train an adapter on a host model."""
