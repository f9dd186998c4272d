"""What a run leaves behind: events, the run folder, trackers and the report."""
