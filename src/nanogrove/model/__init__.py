"""The one model, its layers with a population axis, and exchange with `transformers`."""
