"""`python -m divalign` is the command line; `accelerate launch -m divalign` relies on it."""

from divalign.cli import main

main()
