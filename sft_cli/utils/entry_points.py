"""Find what installed packages provide by their entry points."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points


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


def describe_exception(error: Exception) -> str:
    """Return the type of an exception and the first line of its message."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
