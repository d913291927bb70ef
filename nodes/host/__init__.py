"""The only code that touches the host: its models, folders, sampling, progress and interrupt."""
