"""From what a caller asks for to what propagation needs.

Checks boxes and points against the image, groups them by object, places them in the view. Knows prompts,
volumes and views; knows no model.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from runtime._course import ObjectPlan, Xyxy
from runtime.errors import PromptError
from runtime.geometry import PlaneView, Volume, check_slice_axis, orientation, world_to_voxel
from runtime.types import Box, Point, whole

__all__ = ["PlannedObject", "group_prompts", "plan_every_slice", "plan_objects", "world_box"]

_AXES = "xyz"


@dataclass(slots=True)
class _Group:
    """Prompts of one object."""

    name: str
    boxes: list[Box] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PlannedObject:
    """A named object and its plan.

    Attributes
    ----------
    name : str
        As given, or ``object N``.
    plan : ObjectPlan
        Its prompts in a view.
    solid : Box or None
        The 3-D box that is its only prompt.
    """

    name: str
    plan: ObjectPlan
    solid: Box | None = None

    def seen_in(self, volume: Volume, view: PlaneView) -> PlannedObject:
        """The same object, which has a 3-D box alone, in another view of the volume."""
        assert self.solid is not None
        plan = _Placement(volume, view, None, None).plan(_Group(self.name, [self.solid]), self.plan.label)
        return replace(self, plan=plan)


def group_prompts(prompts: Sequence[Box | Point]) -> list[_Group]:
    """Group prompts by object, in the order in which objects are first named.

    Every unnamed box is an object of its own, called ``object 1``, ``object 2`` and so on by its label;
    unnamed points belong to the only object, or make one where there are points alone.

    Raises
    ------
    PromptError
        If there is no prompt, or an unnamed point could belong to several objects.
    """
    groups: dict[str, _Group] = {}
    given = {prompt.name for prompt in prompts}
    for prompt in prompts:
        if isinstance(prompt, Box):
            name = prompt.name or _default_name(len(groups) + 1, given)
            groups.setdefault(name, _Group(name)).boxes.append(prompt)
    points = [prompt for prompt in prompts if isinstance(prompt, Point)]
    for point in sorted(points, key=lambda point: not point.name):  # named ones first: they make objects
        if not point.name and len(groups) > 1:
            msg = f"point {point.xy} has no name and there are {len(groups)} objects; say which it belongs to"
            raise PromptError(msg)
        name = point.name or next(iter(groups), "object 1")
        groups.setdefault(name, _Group(name)).points.append(point)
    if not groups:
        msg = "no prompt; give a box (x0,y0,x1,y1 or x0,y0,z0,x1,y1,z1) or a point"
        raise PromptError(msg)
    return list(groups.values())


def _default_name(label: int, given: Container[str | None]) -> str:
    """Name of an unnamed object, different from all names that were given."""
    name = f"object {label}"
    while name in given:
        name += " (unnamed)"
    return name


def _inside(values: Sequence[float], axes: Sequence[int], shape: Sequence[int], what: str) -> None:
    for value, axis in zip(values, axes, strict=True):
        if not -0.5 <= value <= shape[axis] - 0.5:
            msg = (
                f"{what}: {_AXES[axis]} = {value:g} lies outside the image, whose {_AXES[axis]} runs from 0 to "
                f"{shape[axis] - 1} (0-based, both ends inclusive)"
            )
            raise PromptError(msg)


def _slice_of(index: int | float | None, default: int, volume: Volume, axis: int) -> int:
    chosen = default if index is None else index
    last = volume.shape[axis] - 1
    if not -0.5 <= chosen <= last + 0.5:
        msg = f"slice {chosen:g} lies outside the image: axis {_AXES[axis]} has slices 0 to {last}"
        raise PromptError(msg)
    return min(max(round(chosen), 0), last)


@dataclass(frozen=True, slots=True)
class _Placement:
    """A volume, the view of it and the caller's defaults."""

    volume: Volume
    view: PlaneView
    slice_index: int | None
    z_range: tuple[int, int] | None

    @property
    def axes(self) -> tuple[int, int]:
        u, v = (axis for axis in range(3) if axis != self.view.slice_axis)
        return u, v

    def default_slice(self) -> int:
        axis = self.view.slice_axis
        return _slice_of(self.slice_index, self.volume.shape[axis] // 2, self.volume, axis)

    def plan(self, group: _Group, label: int) -> ObjectPlan:
        """Place one object's prompts."""
        solid = [box for box in group.boxes if box.is_3d]
        if solid and (len(group.boxes) > 1 or self.z_range is not None):
            msg = f"{group.name}: a 3-D box stands alone; leave out other boxes of the object and the z range"
            raise PromptError(msg)
        if solid:
            boxes, extent, limit = self._solid(solid[0])
            known = True
        else:
            boxes, limit = self._flat(group.boxes), None
            extent, known = self._extent(), self.z_range is not None
        points = self._points(group.points, min(boxes) if boxes else self._position(self.default_slice()))
        for position in {*boxes, *points}:
            if not extent[0] <= position <= extent[1]:
                msg = (
                    f"{group.name}: a prompt lies on slice {self.view.slice_index(position)}, outside the range "
                    f"of slices that was given"
                )
                raise PromptError(msg)
        return ObjectPlan(label, boxes, points, extent, known, limit)

    def plan_alone(self, group: _Group, label: int) -> ObjectPlan:
        """Place the box that cuts the masks of one object, if it has one."""
        extent, limit = self._extent(), None
        if group.points or len(group.boxes) > 1:
            msg = f"{group.name}: this bundle takes one box for an object and no points; leave the others out"
            raise PromptError(msg)
        for box in group.boxes:
            if self.z_range is not None and (box.is_3d or box.slice_index is not None):
                msg = f"{group.name}: its box and the z range both say on which slices; leave one of them out"
                raise PromptError(msg)
            if box.is_3d:
                _, extent, limit = self._solid(box)
            else:
                ((position, limit),) = self._flat([box]).items()
                extent = extent if box.slice_index is None else (position, position)
        return ObjectPlan(label, {}, extent=extent, limit=limit, every_slice=True)

    def _position(self, slice_index: int) -> int:
        return self.view.slice_index(slice_index)

    def _flat(self, boxes: Sequence[Box]) -> dict[int, Xyxy]:
        placed: dict[int, Xyxy] = {}
        for box in boxes:
            u0, v0, u1, v1 = box.xyxy
            _inside((u0, v0, u1, v1), self.axes * 2, self.volume.shape, f"box {_text(box.xyxy)}")
            index = _slice_of(box.slice_index, self.default_slice(), self.volume, self.view.slice_axis)
            position = self._position(index)
            if position in placed:
                msg = f"two boxes of one object on slice {index}; give one box per object and slice"
                raise PromptError(msg)
            placed[position] = self.view.box_to_view((u0, v0, u1, v1))
        return placed

    def _solid(self, box: Box) -> tuple[dict[int, Xyxy], tuple[int, int], Xyxy]:
        low, high = box.xyxy[:3], box.xyxy[3:]
        _inside(box.xyxy, (0, 1, 2, 0, 1, 2), self.volume.shape, f"box {_text(box.xyxy)}")
        axis = self.view.slice_axis
        u, v = self.axes
        rectangle = self.view.box_to_view((low[u], low[v], high[u], high[v]))
        last = self.volume.shape[axis] - 1
        ends = sorted(self._position(min(max(round(end), 0), last)) for end in (low[axis], high[axis]))
        extent = (ends[0], ends[1])
        return {(ends[0] + ends[1]) // 2: rectangle}, extent, rectangle

    def _extent(self) -> tuple[int, int]:
        axis = self.view.slice_axis
        if self.z_range is None:
            return (0, self.volume.shape[axis] - 1)
        ends = sorted(self._position(_slice_of(end, 0, self.volume, axis)) for end in self.z_range)
        return (ends[0], ends[1])

    def _points(self, points: Sequence[Point], default: int) -> dict[int, tuple[tuple[float, float, float], ...]]:
        placed: dict[int, tuple[tuple[float, float, float], ...]] = {}
        u, v = self.axes
        axis = self.view.slice_axis
        for point in points:
            position = default
            if len(point.xy) == 3:
                flat = (point.xy[u], point.xy[v])
                position = self._position(_slice_of(point.xy[axis], 0, self.volume, axis))
            else:
                flat = (point.xy[0], point.xy[1])
                if point.slice_index is not None:
                    position = self._position(_slice_of(point.slice_index, 0, self.volume, axis))
            _inside(flat, (u, v), self.volume.shape, f"point {_text(point.xy)}")
            x, y = self.view.point_to_view(flat)
            placed[position] = (*placed.get(position, ()), (x, y, float(point.positive)))
        return placed


def _text(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)


def plan_objects(
    volume: Volume,
    view: PlaneView,
    prompts: Sequence[Box | Point],
    *,
    slice_index: int | None = None,
    z_range: tuple[int, int] | None = None,
) -> list[PlannedObject]:
    """Place all prompts of a call in a view, one plan per object; labels count from 1.

    Parameters
    ----------
    volume : Volume
        The image; prompts are in its voxel indices.
    view : PlaneView
        The view that slices are decoded in.
    prompts : sequence of Box or Point
        What the caller asked for.
    slice_index : int, optional
        Slice of boxes that name none. Default: the middle slice.
    z_range : tuple of 2 int, optional
        First and last slice of the objects, both included.

    Returns
    -------
    objects : list of PlannedObject
        In the order of their labels.

    Raises
    ------
    PromptError
        If a prompt lies outside the image or contradicts another, or a slice index is no whole number.
    """
    if slice_index is not None:
        slice_index = whole(slice_index, "slice_index")
    placement = _Placement(volume, view, slice_index, _checked_range(z_range))
    return [
        PlannedObject(group.name, placement.plan(group, label), _solid_alone(group))
        for label, group in enumerate(group_prompts(prompts), 1)
    ]


def _solid_alone(group: _Group) -> Box | None:
    return group.boxes[0] if group.boxes and group.boxes[0].is_3d and not group.points else None


def plan_every_slice(
    volume: Volume, view: PlaneView, prompts: Sequence[Box | Point], *, z_range: tuple[int, int] | None = None
) -> list[PlannedObject]:
    """Plan for a decoder that needs no prompt: every slice on its own, within a box where one is given.

    Parameters
    ----------
    volume, view
        As in `plan_objects`.
    prompts : sequence of Box
        At most one box for each object: of six numbers; of four on a slice, which is then the only one segmented; or
        of four alone, which holds on every slice. One object on the whole image where there is none.
    z_range : tuple of 2 int, optional
        First and last slice, both included. Default: all.

    Returns
    -------
    objects : list of PlannedObject
        As `plan_objects`.

    Raises
    ------
    PromptError
        If a point is given, an object has several boxes, or a box lies outside the image or contradicts ``z_range``.
    """
    placement = _Placement(volume, view, None, _checked_range(z_range))
    groups = group_prompts(prompts) if prompts else [_Group("object 1")]
    return [PlannedObject(group.name, placement.plan_alone(group, label)) for label, group in enumerate(groups, 1)]


def _checked_range(z_range: tuple[int, int] | None) -> tuple[int, int] | None:
    if z_range is None:
        return None
    try:
        first, last = (whole(end, "slice") for end in z_range)
    except (TypeError, ValueError) as error:  # PromptError is a ValueError
        msg = f"z range {z_range!r}: wanted two slice indices, the first and the last"
        raise PromptError(msg) from error
    if last < first:
        msg = f"z range {first},{last}: the last slice lies below the first; swap them"
        raise PromptError(msg)
    return first, last


def world_box(volume: Volume, box_mm: Sequence[float], slice_axis: int, slice_mm: float | None = None) -> Box:
    """Turn a box in world millimetres into one in voxels.

    Parameters
    ----------
    volume : Volume
        A volume with an affine.
    box_mm : sequence of 4 or 6 float
        RAS millimetres of voxel centres: two opposite corners, either as all three coordinates each, or as the
        two in-plane coordinates each (world axes in ascending order; for an axial plane x and y).
    slice_axis : int
        Voxel axis that slices are stacked along.
    slice_mm : float, optional
        World coordinate across the plane for a box of 4 numbers. Default: the middle slice.

    Returns
    -------
    box : Box
        Ends rounded to the nearest voxel and cut to the volume; of 4 numbers with its slice, or of 6.

    Raises
    ------
    PromptError
        If the volume has no affine, the numbers are not 4 or 6 finite ones, or the box lies outside the volume.
    ImageError
        If ``slice_axis`` is not 0, 1 or 2.
    """
    if volume.affine is None:
        msg = "this image has no affine, so millimetres mean nothing in it; give the box in voxels"
        raise PromptError(msg)
    values = _world_numbers(box_mm, slice_mm)
    check_slice_axis(slice_axis)
    middle = (np.array(volume.shape) - 1) / 2
    across = orientation(volume.affine)[slice_axis][0]
    if len(values) == 4:
        centre = float((volume.affine[:3, :3] @ middle + volume.affine[:3, 3])[across])
        depth = centre if slice_mm is None else slice_mm
        for offset in (across, across + 3):
            values.insert(offset, depth)
    corners = np.array(list(product(*zip(values[:3], values[3:], strict=True))))
    voxels = world_to_voxel(volume.affine, corners)
    low = np.ceil(voxels.min(axis=0) - 0.5 - 1e-6).astype(int)
    high = np.maximum(np.floor(voxels.max(axis=0) + 0.5 + 1e-6).astype(int), low)
    limits = np.array(volume.shape) - 1
    if (high < 0).any() or (low > limits).any():
        msg = (
            f"world box {_text(box_mm)} mm lies outside the image; in voxels it is {low.tolist()} to "
            f"{high.tolist()} and the image has {list(volume.shape)}"
        )
        raise PromptError(msg)
    low, high = np.clip(low, 0, limits), np.clip(high, 0, limits)
    if len(box_mm) == 6:
        return Box((*low.tolist(), *high.tolist()))
    u, v = (axis for axis in range(3) if axis != slice_axis)
    index = round(float(voxels[:, slice_axis].mean()))
    return Box((low[u], low[v], high[u], high[v]), slice_index=min(max(index, 0), int(limits[slice_axis])))


def _world_numbers(box_mm: Sequence[float], slice_mm: float | None) -> list[float]:
    try:
        values = [float(value) for value in box_mm]
    except (TypeError, ValueError) as error:
        msg = f"world box {box_mm!r}: wanted 4 or 6 numbers, in millimetres"
        raise PromptError(msg) from error
    if len(values) not in (4, 6) or not np.isfinite(values).all():
        msg = f"world box with {len(values)} numbers: wanted 4 or 6 finite ones, in millimetres"
        raise PromptError(msg)
    if slice_mm is not None and not np.isfinite(slice_mm):
        msg = f"slice_mm {slice_mm}: wanted a finite number, in millimetres"
        raise PromptError(msg)
    return values
