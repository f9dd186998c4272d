"""A preset becomes a run: set up, trained, recorded, saved, scored."""
