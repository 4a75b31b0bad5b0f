"""``python -m cli`` is ``stoker``."""

from cli.main import main

main()
