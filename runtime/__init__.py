"""Library and command ``longshore-runtime``: an OCI runtime; run in the shim or from the shell."""
