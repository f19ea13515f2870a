"""What a run has left to do, what is tried again, and which video is to blame for a process that died."""

from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path

from flowcpc.pipeline.extraction.extract import (
    FAILED,
    KIND_MACHINE,
    Outcome,
    record_failure,
    source_stamp,
)
from flowcpc.pipeline.extraction.ledger import VideoTask
from flowcpc.stores.flow_store import FlowStore

TRIES = 3


class Backlog:
    """The tasks of a run, in order, each until its outcome stands.

    A video that kills its process, or fails in a way that may pass, has TRIES tries within a run; then it is a row in failures. One
    that was dropped because its process was asked to leave goes back without being blamed.

    Attributes
    ----------
    unfinished : int
        Videos whose outcome does not stand yet: those that wait and those that were taken.
    """

    def __init__(self, store: FlowStore, videos: str, tasks: Sequence[VideoTask]) -> None:
        self._store = store
        self._videos = videos
        self._waiting = deque(tasks)
        self._tries: Counter[str] = Counter()
        self._suspects: set[str] = set()
        self.unfinished = len(tasks)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def first(self) -> VideoTask:
        """The task that is taken next."""
        return self._waiting[0]

    def take(self) -> VideoTask:
        """Return the next task; raises IndexError where none waits."""
        return self._waiting.popleft()

    def put_back(self, *tasks: VideoTask, suspected: bool = False) -> None:
        """Let tasks that were dropped be the next ones taken; `suspected` of having killed a process that had them all in hand, each alone."""
        self._waiting.extendleft(tasks)
        if suspected:
            self._suspects.update(task.video.video_id for task in tasks)

    def is_suspect(self, task: VideoTask) -> bool:
        """Return whether `task` must be the only one that its process has in hand."""
        return task.video.video_id in self._suspects

    def settle(self, task: VideoTask, outcome: Outcome) -> Outcome | None:
        """Return the outcome of `task` if it stands, None if its video is tried again."""
        if outcome.status == FAILED and outcome.may_pass and self._is_tried_again(task):
            return None
        self.unfinished -= 1
        return outcome

    def settle_death(self, task: VideoTask, cause: str) -> Outcome | None:
        """Return the outcome of a task whose process died, having nothing else in hand; None if its video is tried
        again.
        """
        if self._is_tried_again(task):
            return None
        reason = f"killed its worker process {TRIES} times ({cause})"
        stamp = source_stamp(Path(self._videos, task.video.path))
        record_failure(self._store, task.video, KIND_MACHINE, reason, stamp)
        self.unfinished -= 1
        return Outcome(task.video.video_id, FAILED, reason=reason)

    def is_last_try(self, task: VideoTask) -> bool:
        """Return whether another failure of `task` would stand."""
        return self._tries[task.video.video_id] + 1 >= TRIES

    def _is_tried_again(self, task: VideoTask) -> bool:
        self._tries[task.video.video_id] += 1
        if self._tries[task.video.video_id] >= TRIES:
            return False
        self.put_back(task)
        return True
