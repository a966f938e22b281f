"""Find what installed packages provide by their entry points."""

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from sft_cli.errors import SftError


@cache
def entry_points_by_name(group: str) -> Mapping[str, tuple[EntryPoint, ...]]:
    """Return the entry points of a group by name; a name that two packages use has two."""
    points: dict[str, dict[str, EntryPoint]] = {}
    for point in entry_points(group=group):
        points.setdefault(point.name, {})[entry_label(point)] = point  # a package found twice on the path counts once
    return {name: tuple(points[name].values()) for name in sorted(points)}


def entry_label(point: EntryPoint) -> str:
    """Return ``name (package version)``, for the manifest and the cache key."""
    assert point.dist is not None, "entry_points() gives every entry point its distribution"
    return f"{point.name} ({point.dist.name} {point.dist.version})"


def installed_point(group: str, name: str, *, built_in: bool, kind: str, where: str) -> EntryPoint | None:
    """Return the entry point of a name, or None if no package provides it.

    Args:
        group: Group of entry points, such as ``sft_cli.formats``.
        name: The name as configured.
        built_in: Whether this package provides the name.
        kind: What the group provides, such as ``format``.
        where: The key that names it, for errors.

    Raises:
        SftError: Several packages provide the name.
    """
    points = entry_points_by_name(group).get(name, ())
    if len(points) + built_in > 1:
        owners = [*(["sft itself"] if built_in else []), *map(entry_label, points)]
        raise SftError(
            where=where,
            problem=f"more than one {kind} has the name {name!r}: {', '.join(owners)}",
            fix="uninstall all but one of the packages, or rename the entry point",
        )
    return points[0] if points else None


def load_function(point: EntryPoint, kind: str, of: str, where: str) -> Callable[..., Any]:
    """Return the function of an entry point.

    Args:
        point: The entry point.
        kind: What it provides, such as ``format``.
        of: What the function takes, such as ``a row``.
        where: The key that names it, for errors.

    Raises:
        SftError: It cannot be imported, or is no function.
    """
    try:
        function = point.load()
    except Exception as error:  # importing a third-party package may raise anything
        raise SftError(
            where=where,
            problem=f"the {kind} {entry_label(point)} cannot be imported: {describe_exception(error)}",
            fix=f"repair or reinstall the package; its entry point is {point.value}",
        ) from error
    if not callable(function):
        raise SftError(
            where=where,
            problem=f"the {kind} {entry_label(point)} is {repr(function)[:80]}, not a function of {of}",
            fix=f"change the entry point {point.value} to name a function",
        )
    return function


def describe_exception(error: Exception) -> str:
    """Return the type of an exception and the first line of its message."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
