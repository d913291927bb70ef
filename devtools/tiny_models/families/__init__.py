"""Rows of the registry, a file for each family of models."""
