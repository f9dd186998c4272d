"""The one training loop and its parts: objective, optimizers, schedules, precision, checkpoints."""
