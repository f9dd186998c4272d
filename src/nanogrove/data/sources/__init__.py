"""Kinds of source: files, tables, PDF, the hub, and how each is read as documents."""
