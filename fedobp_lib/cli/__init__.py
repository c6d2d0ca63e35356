"""The `fedobp` command. Results go to standard output, everything else to standard error."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from ..errors import PREEMPTED, FederationFailed, Preempted, SweepFailed, UserError
from .parser import build_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 (failed), 2 (bad input),
    75 (SIGTERM), 130 (Ctrl-C)."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be in any encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options = build_parser().parse_args(arguments)
        code = options.action(options) or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        # What was typed, and is repeated in it, may have lines of its own.
        print(f"fedobp: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (SweepFailed, FederationFailed) as error:
        print(f"fedobp: {error}", file=sys.stderr)
        return 1
    except Preempted:
        print(
            "fedobp: asked to end; checkpoints are written, the same command continues",
            file=sys.stderr,
        )
        return PREEMPTED
    except KeyboardInterrupt:
        print(
            "fedobp: stopped; finished runs are kept, the same command continues", file=sys.stderr
        )
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:  # for instance no room where standard output goes
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"fedobp: {where}{error.strerror or error}", file=sys.stderr)
        return 2
