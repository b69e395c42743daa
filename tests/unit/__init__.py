"""Tests that need no root and no engine."""
