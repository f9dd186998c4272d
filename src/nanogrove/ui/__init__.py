"""The lab in a browser: all runs below a folder, and each run, live."""
