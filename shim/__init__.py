"""``longshore-zygote`` and, one a container, ``longshore-shim``: stdio, log and exit status."""
