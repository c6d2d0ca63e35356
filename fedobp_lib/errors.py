"""Mistakes of the user, told in one line."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Input that cannot be used; the message is one line that says what to do.

    The command line prints the message and exits with code 2; from Python it is an
    ordinary `ValueError`.
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Build the error for a name that is not registered, with the nearest known name."""
    known = sorted(known)
    spelled = {one.lower(): one for one in known}
    near = get_close_matches(str(name).lower(), spelled, n=1, cutoff=0.6)
    hint = f"did you mean {spelled[near[0]]!r}?" if near else f"known: {', '.join(known)}"
    return UserError(f"unknown {kind} {name!r}; {hint}")


def one_line(error: BaseException) -> str:
    """An error's first line, with its kind unless it is a `UserError`."""
    text = (str(error).strip().splitlines() or [""])[0]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


class HalfRestored(UserError):
    """A checkpoint was whole, and then could not be read to its end; the run in memory is lost."""


class SweepFailed(RuntimeError):
    """Some runs of a sweep failed; the others are finished."""


PREEMPTED = 75  # exit code: EX_TEMPFAIL of sysexits.h, try again later


class Preempted(BaseException):
    """The process was asked to end (SIGTERM); what was computed is kept."""


class FederationFailed(RuntimeError):
    """A federation cannot go on; one line says why. What was checkpointed is kept."""
