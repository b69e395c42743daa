"""Processes ``longshore-zygote`` and, one a container, ``longshore-shim``: stdio, log, exit status."""
