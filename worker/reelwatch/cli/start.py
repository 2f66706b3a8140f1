"""Where the command `reelwatch` begins: `alive` is answered before anything else is loaded."""

import sys

from reelwatch.rules.pulse import KINDS


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["alive"] and (not sys.argv[2:] or sys.argv[2:] in [[k] for k in KINDS]):
        from reelwatch.cli import pulse  # noqa: PLC0415 - only what this command needs

        wrong = pulse.complaints(sys.argv[-1] if sys.argv[2:] else "")
        for line in wrong:
            print(f"reelwatch: {line}", file=sys.stderr)  # noqa: T201 - click is not loaded
        sys.exit(1 if wrong else 0)
    from reelwatch.cli.main import main as command_line  # noqa: PLC0415 - takes its time

    command_line()
