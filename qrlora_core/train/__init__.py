"""Training delta_r on any loss."""
