"""What a run leaves: events, the run folder and trackers."""
