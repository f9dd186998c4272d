"""Conversations as data: rows of messages, the template that makes them tokens, and which tokens are scored."""
