"""Losses that are minimised beside or instead of the next-token loss."""
