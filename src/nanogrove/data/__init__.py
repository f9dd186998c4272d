"""Texts and what becomes of them: documents, tokens, memory-mapped shards, batches."""
