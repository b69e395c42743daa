"""Benchmarks: the same jobs against any number of engines, in turn. Run as ``python -m bench``."""
