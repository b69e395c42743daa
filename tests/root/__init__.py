"""Tests of the runtime, the shim and the network against the real kernel, as root."""
