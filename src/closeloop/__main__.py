"""``python -P -m closeloop`` is the command ``closeloop``; -P keeps the current folder off the import path."""

from closeloop.cli.main import main

if __name__ == "__main__":
    main()
