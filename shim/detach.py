"""Library: finds the key sequence by which a user leaves an attached terminal (ctrl-p ctrl-q)."""

from __future__ import annotations


class DetachDetector:
    """Looks for ``keys`` in a stream that arrives in arbitrary pieces."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What may go on to the container, and whether the sequence was completed.

        The beginning of a sequence is held back, because it must not reach the container when the
        rest follows; what comes after a complete one is dropped.
        """
        if not self._keys:
            return data, False
        data = self._held + data
        found = data.find(self._keys)
        if found >= 0:
            self._held = b""
            return data[:found], True
        length = self._partial_match(data)
        self._held = data[len(data) - length :]
        return data[: len(data) - length], False

    def flush(self) -> bytes:
        """What was held back when the stream ends."""
        held, self._held = self._held, b""
        return held

    def _partial_match(self, data: bytes) -> int:
        for length in range(min(len(self._keys) - 1, len(data)), 0, -1):
            if data.endswith(self._keys[:length]):
                return length
        return 0
