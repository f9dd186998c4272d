"""Sections of the report of a study, one file each."""
