"""The host's model: its weights, what adapters call them, and which base it is."""
