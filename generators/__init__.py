"""What is made by scripts: workflows, blueprints, pictures, locales, tables; `python -m generators.<name>`."""
