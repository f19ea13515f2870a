"""The one error that is nobody's typing mistake."""


class DamagedStoreError(RuntimeError):
    """Stored bytes are missing or fail their checksum; the message names the file and what to do."""
