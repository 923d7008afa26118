"""Where the words of a figure go: beside their points, and not over each other.

All lengths are in points (1/72 inch), measured from the figure's lower left corner. The same input always gives the
same places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Distances from a point to its label, and directions, among which the best is chosen.
_DISTANCES = (6.0, 8.5, 12.0, 17.0, 23.0, 30.0, 39.0, 50.0, 64.0, 80.0)
_ANGLES = np.arange(24) * (2 * np.pi / 24)
_ROUNDS = 8
_LEADER_FROM = 8.5


@dataclass(frozen=True)
class Tag:
    """A label to place: the point that it names, and the size of its text."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Place:
    """The centre of a label, and the leader line from its point where it stands apart from it."""

    x: float
    y: float
    leader: tuple[tuple[float, float], tuple[float, float]] | None


def place(
    tags: Sequence[Tag],
    frame: tuple[float, float, float, float],
    obstacles: Sequence[tuple[float, float, float, float]] = (),
) -> list[Place]:
    """Places for labels inside `frame` (left, bottom, right, top), away from each other, from all points and, less
    strictly, from `obstacles` (boxes). Each label in turn takes the cheapest place, until none moves."""
    if not tags:
        return []
    markers = np.array([(t.x - 4.5, t.y - 4.5, t.x + 4.5, t.y + 4.5) for t in tags])
    soft = np.array(obstacles, dtype=float).reshape(-1, 4)
    choices = [_Choices.of(tag, i, frame, markers, soft) for i, tag in enumerate(tags)]
    crowd = [sum(np.hypot(t.x - o.x, (t.y - o.y) * 2) < 60 for o in tags) for t in tags]
    turns = sorted(range(len(tags)), key=lambda i: (-crowd[i], tags[i].y, tags[i].x))
    chosen = {i: int(np.argmin(choices[i].cost)) for i in range(len(tags))}
    settled: set[int] = set()
    for _ in range(_ROUNDS):
        moved = False
        for i in turns:
            others = [j for j in range(len(tags)) if j != i and (j in settled or len(settled) == len(tags))]
            boxes = np.array([choices[j].boxes[chosen[j]] for j in others]).reshape(-1, 4)
            leaders = np.array([choices[j].leaders[chosen[j]] for j in others]).reshape(-1, 4)
            best = int(np.argmin(choices[i].cost + choices[i].clash(boxes, leaders)))
            moved |= best != chosen[i] or i not in settled
            chosen[i] = best
            settled.add(i)
        if not moved:
            break
    return [choices[i].at(chosen[i]) for i in range(len(tags))]


@dataclass(frozen=True)
class _Choices:
    """All places that a label could take: boxes and leaders [C, 4], what each costs alone [C], gaps [C]."""

    boxes: np.ndarray
    leaders: np.ndarray
    cost: np.ndarray
    gaps: np.ndarray

    @classmethod
    def of(
        cls, tag: Tag, index: int, frame: tuple[float, float, float, float], markers: np.ndarray, soft: np.ndarray
    ) -> _Choices:
        gap, angle = (a.ravel() for a in np.meshgrid(_DISTANCES, _ANGLES, indexing="ij"))
        cx = tag.x + np.cos(angle) * (gap + tag.width / 2)
        cy = tag.y + np.sin(angle) * (gap + tag.height / 2)
        boxes = np.stack([cx - tag.width / 2, cy - tag.height / 2, cx + tag.width / 2, cy + tag.height / 2], axis=1)
        near_x = np.clip(tag.x, boxes[:, 0], boxes[:, 2])
        near_y = np.clip(tag.y, boxes[:, 1], boxes[:, 3])
        leaders = np.stack([np.full_like(gap, tag.x), np.full_like(gap, tag.y), near_x, near_y], axis=1)
        left, bottom, right, top = frame
        outside = (boxes[:, 0] < left) | (boxes[:, 1] < bottom) | (boxes[:, 2] > right) | (boxes[:, 3] > top)
        others = np.delete(markers, index, axis=0)
        cost = gap + 1.5 * (1 - np.cos(angle)) + 2.0 * np.abs(np.sin(2 * angle))
        cost = cost + 1e6 * outside + 150 * (_overlap(boxes, markers) > 0).sum(1)
        cost = cost + 25 * (_overlap(boxes, soft) > 0).sum(1)
        cost = cost + 60 * _through(leaders, others).sum(1)
        return cls(boxes, leaders, cost, np.hypot(near_x - tag.x, near_y - tag.y))

    def clash(self, boxes: np.ndarray, leaders: np.ndarray) -> np.ndarray:
        """[C] what each place costs beside other labels and their leaders."""
        if not len(boxes):
            return np.zeros(len(self.boxes))
        roomy = boxes + np.array([-2.0, -0.8, 2.0, 0.8])
        return (
            400 * (_overlap(self.boxes, roomy) > 0).sum(1)
            + 120 * _through(self.leaders, boxes).sum(1)
            + 120 * _through(leaders, self.boxes).sum(0)
            + 80 * _cross(self.leaders, leaders).sum(1)
        )

    def at(self, i: int) -> Place:
        left, bottom, right, top = self.boxes[i].tolist()
        x0, y0, x1, y1 = self.leaders[i].tolist()
        leader = ((x0, y0), (x1, y1)) if self.gaps[i] > _LEADER_FROM else None
        return Place((left + right) / 2, (bottom + top) / 2, leader)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights near the wanted ones, in the same order, at least `gap` apart and inside [low, high] where they fit."""
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    # Blocks of touching labels: [sum of wanted minus own offset, count]; blocks that overlap are joined.
    blocks: list[list[float]] = []
    for i in order:
        blocks.append([wanted[i], 1])
        while len(blocks) > 1 and _mean(blocks[-2]) + gap * blocks[-2][1] > _mean(blocks[-1]):
            total, count = blocks.pop()
            blocks[-1][0] += total - gap * blocks[-1][1] * count
            blocks[-1][1] += count
    heights = [_mean(block) + gap * k for block in blocks for k in range(int(block[1]))]
    for k in range(len(heights)):  # up from the floor, then down from the ceiling
        heights[k] = max(heights[k], low + gap * k)
    for k in range(len(heights)):
        heights[-1 - k] = min(heights[-1 - k], high - gap * k)
    placed = [0.0] * len(wanted)
    for i, height in zip(order, heights, strict=True):
        placed[i] = height
    return placed


def _mean(block: list[float]) -> float:
    return block[0] / block[1]


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[A, B] shared area of boxes."""
    width = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    height = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    return np.maximum(width, 0) * np.maximum(height, 0)


def _through(lines: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """[L, B] whether a line runs through a box, by its points in between."""
    t = np.linspace(0.15, 0.95, 9)
    x = lines[:, 0, None] + (lines[:, 2] - lines[:, 0])[:, None] * t
    y = lines[:, 1, None] + (lines[:, 3] - lines[:, 1])[:, None] * t
    inside_x = (x[:, None] > boxes[None, :, 0, None]) & (x[:, None] < boxes[None, :, 2, None])
    inside_y = (y[:, None] > boxes[None, :, 1, None]) & (y[:, None] < boxes[None, :, 3, None])
    return np.asarray((inside_x & inside_y).any(-1))


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[A, B] whether two lines cross."""

    def side(p: np.ndarray, q: np.ndarray, r: np.ndarray) -> np.ndarray:
        return (q[..., 0] - p[..., 0]) * (r[..., 1] - p[..., 1]) - (q[..., 1] - p[..., 1]) * (r[..., 0] - p[..., 0])

    p, q, r, s = a[:, None, :2], a[:, None, 2:], b[None, :, :2], b[None, :, 2:]
    return (side(p, q, r) * side(p, q, s) < 0) & (side(r, s, p) * side(r, s, q) < 0)
