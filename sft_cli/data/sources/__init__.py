"""Read the rows of a source, each with its location: from files, servers, the hub, or streams."""
