"""`python -m nanogrove`, the same as `nanogrove`."""

from nanogrove.cli import main

main()
