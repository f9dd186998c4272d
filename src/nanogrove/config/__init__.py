"""Presets: one JSON file says everything about a run."""
