"""The transfer engine: plans, how they resolve into rows, and how rows fill params."""
