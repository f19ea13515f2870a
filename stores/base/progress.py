"""How long work tells how far it is; `console.Bar` is one such listener."""

from collections.abc import Callable, Mapping

# progress(done, total, fields): `fields` are shown beside the bar, as they are.
Progress = Callable[[int, int, Mapping[str, float | str]], None]
