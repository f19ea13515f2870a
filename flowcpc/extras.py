"""Parts of the installation that only training needs: pip install 'flowcpc[train]'."""

_TRAIN = {"torch", "safetensors", "sklearn", "scipy", "jinja2"}


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Return what to install if `error` is about a library of an extra, otherwise None."""
    library = (error.name or "").partition(".")[0]
    if library not in _TRAIN:
        return None
    return (
        f"{library} is not installed, and training, evaluation and embedding need it; "
        "run pip install 'flowcpc[train]'"
    )
