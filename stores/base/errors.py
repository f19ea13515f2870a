"""Errors whose message is a sentence for the user, and helpers to word such sentences."""

import difflib
from collections.abc import Iterable


class UnknownVideoError(KeyError):
    """A store has no such video. It has a class of its own because any other KeyError is a bug."""


class OperationError(RuntimeError):
    """Something outside the program failed. The message says what to do; commands exit with 1."""


class DamagedStoreError(OperationError):
    """Stored bytes are missing or fail their checksum; the message names the file and the cure."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def nearest_name(name: str, names: Iterable[str]) -> str:
    """Return the one of `names` that resembles `name` most; empty if none does."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)), "")


def counted(number: int, noun: str) -> str:
    """Return `number` and `noun`, given in the singular, in the plural if needed.

    >>> counted(1, "video"), counted(0, "video"), counted(2, "video of the data set")
    ('1 video', '0 videos', '2 videos of the data set')
    """
    first, space, rest = noun.partition(" ")
    return f"{number} {first}{'' if number == 1 else 's'}{space}{rest}"
