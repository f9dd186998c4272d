"""The one model, its layers with a population axis, decoding, and exchange with `transformers`."""
