"""The command line: verbs, and what a terminal shows."""
