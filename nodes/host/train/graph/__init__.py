"""The host's network while it trains: frozen, differentiable, and within memory."""
