"""Models for other programs: a folder of files that these read, with a card that says what the model is."""
