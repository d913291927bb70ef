"""Adapter kinds as other trainers' files have them, one a file: their keys, and how they become exact terms."""
