"""``python -m cli`` is ``vos``."""

from cli.main import main

main()
