"""Tasks: what a model is asked, how the answer is scored, and everything that decides whether two scores may be
put together. One file a task; `registry` finds them."""

from kvfrontier.runners.tasks.registry import describe, make, names
from kvfrontier.runners.tasks.task import Task

__all__ = ["Task", "describe", "make", "names"]
