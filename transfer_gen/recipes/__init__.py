"""Config files for common jobs, by name: `--config=recipe:NAME`."""
