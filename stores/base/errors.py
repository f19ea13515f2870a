"""Errors whose message is a sentence for the user although nothing was typed wrong."""


class UnknownVideoError(KeyError):
    """A store has no such video; the message names the nearest one. A class of its own, since any other KeyError is a bug."""


class OperationError(RuntimeError):
    """Something outside the program went wrong; the message says what and what to do. Commands exit 1 with it."""


class DamagedStoreError(OperationError):
    """Stored bytes are missing or fail their checksum; the message names the file and what to do."""
