"""`python -m chainrelay.client.cli` is the `chainrelay` command."""

from chainrelay.client.cli import main

main()
