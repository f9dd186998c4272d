"""Families of well-known models: a file each, and one table."""
