"""Learning from a teacher: its losses, and how other vocabularies are aligned."""
