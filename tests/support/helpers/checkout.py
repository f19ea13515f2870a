"""Where the checkout is, and the folder of the real clips."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def real_data_folder() -> Path:
    """Where the real clips are looked for; the folder may be absent."""
    return Path(os.environ.get("FLOWCPC_TEST_DATA", ROOT.parent / "shared" / "data"))
