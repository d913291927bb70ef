"""Adapter files in the host's folders: where they lie, what is in them, loading and saving."""
