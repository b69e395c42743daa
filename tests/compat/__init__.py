"""Tests of a running engine over its socket, one file per API resource."""
