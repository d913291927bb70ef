"""What a training is judged by while it runs: how like its samples are to what it learns, and how free of it."""
