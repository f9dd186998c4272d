"""What makes members of a population differ: breeding and hyperparameters."""
