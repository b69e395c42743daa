"""Test support: run tests in a virtual machine with cgroup v2, on a host that has v1."""
