"""How a merge reaches a model: live branches beside its layers, or patches of its weights."""
