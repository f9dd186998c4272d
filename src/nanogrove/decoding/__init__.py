"""Decoding: how a model continues a prompt."""
