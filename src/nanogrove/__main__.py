"""`python -m nanogrove`, the same as `nanogrove`."""

from nanogrove.cli.main import main

main()
