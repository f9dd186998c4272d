"""A text corpus: documents assigned to splits, tokenised into shards, read as windows and mixed."""
