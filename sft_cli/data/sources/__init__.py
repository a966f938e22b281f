"""From a source's path to its rows, each with its place: files, servers, the hub, streams."""
