"""The embedded default model: a tiny SD3 and the pictures, scripts and weights behind it."""
