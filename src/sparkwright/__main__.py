"""``python -m sparkwright``: the command line."""

from sparkwright.cli import main

main()
