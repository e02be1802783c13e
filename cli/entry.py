"""The program's entry: an interrupt before the command line is read ends it without a word.

Python would show the traceback of whatever import was interrupted.
"""

import signal


def main() -> None:
    """Run the process's own command line, and end the process."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from dipaco.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
