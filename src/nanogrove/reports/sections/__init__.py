"""The sections of a report, one function from `Run` to HTML each."""
