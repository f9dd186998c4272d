"""Studies: several runs and one question, which way is better."""
