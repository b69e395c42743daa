"""longshored: the sequence of keys that detaches a client, such as ``ctrl-p,ctrl-q``."""

from __future__ import annotations

from common.errors import InvalidArgument

# The control characters 0 to 31 by the key that is pressed together with ctrl.
CONTROL_KEYS = "@abcdefghijklmnopqrstuvwxyz[\\]^_"


def parse_detach_keys(text: str) -> bytes:
    keys = bytearray()
    for key in text.split(","):
        if len(key) == 1 and key.isascii():
            keys += key.encode()
        elif key.startswith("ctrl-") and len(key) == 6 and key[5] in CONTROL_KEYS:
            keys.append(CONTROL_KEYS.index(key[5]))
        elif key == "DEL":
            keys.append(127)
        else:
            raise InvalidArgument(f"Invalid detach keys ({text}) provided")
    return bytes(keys)
