"""Library: control groups v1, hybrid and v2, as OCI resources."""
