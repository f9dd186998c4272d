"""Data: batches as functions of the step, tokenizers, sources of documents and text corpora."""
