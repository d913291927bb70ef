"""A training for a role: what is varied in the pictures, so that an adapter learns the thing alone, or the look."""
