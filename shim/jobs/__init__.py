"""What runs in ``longshore-job`` processes: work on a container's files, from outside of it."""
