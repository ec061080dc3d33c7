"""One exception tree; each message says what was found, with numbers, and what to do. Each class carries its exit code."""

from collections.abc import Iterable
from difflib import get_close_matches


class JaxalignError(Exception):
    """Base of every error that jaxalign raises on purpose."""

    exit_code = 1


class ConfigError(JaxalignError, ValueError):
    """The request cannot be carried out as written: a name, an option or an output folder is wrong."""

    exit_code = 2


class DataError(JaxalignError, ValueError):
    """A recording, a stimulus set, an activation or a results file is not what it should be."""

    exit_code = 3


class UnitsFailedError(JaxalignError):
    """The run ended, but some units have no result; run.json and the report name them."""

    exit_code = 4


class PrecisionError(JaxalignError):
    """A device computes known answers less precisely than promised; nothing it computes may be reported."""

    exit_code = 5


class PreemptedError(JaxalignError):
    """The run was asked to stop (SIGTERM); finished units are kept and the same command resumes."""

    exit_code = 75


def near(name: str, known: Iterable[str]) -> list[str]:
    """Known names that are close to a wrong one, the closest first, at most 3."""
    return get_close_matches(name, sorted(known), n=3, cutoff=0.5)


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known names are closest to a wrong one, or list them when none is close."""
    known = sorted(known)
    close = near(name, known)
    if close:
        return f"Nearest: {', '.join(close)}."
    return f"Known: {', '.join(known)}." if known else "None is known."
