"""Which data a step reads: curricula and weights of sources."""
