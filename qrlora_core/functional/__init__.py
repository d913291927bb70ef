"""The algebra of adapters, one idea a file: pure functions of adapters, layers and tensors."""
