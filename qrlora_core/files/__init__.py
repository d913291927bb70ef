"""Adapter files: safetensors, one format a file."""
