"""The command `jaxalign`: composes the configuration and hands it to one verb."""

import sys

from jaxalign import commands


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(commands.main(sys.argv[1:]))


if __name__ == "__main__":
    main()
