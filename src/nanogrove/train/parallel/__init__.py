"""Training in several processes: ranks, sharded weights, members of a population spread over ranks."""
