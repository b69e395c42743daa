"""Library of lifecycle: signals as clients name them."""

from __future__ import annotations

import signal

from common.errors import InvalidArgument

# glibc keeps 32 and 33 for itself, so SIGRTMIN is 34 (moby: moby/sys/signal for Linux).
_RTMIN, _RTMAX = 34, 64

NUMBERS: dict[str, int] = {
    item.name.removeprefix("SIG"): int(item)
    for item in signal.Signals
    if not item.name.startswith("SIGRT")
}
NUMBERS |= {"RTMIN": _RTMIN, "RTMAX": _RTMAX}
NUMBERS |= {f"RTMIN+{n}": _RTMIN + n for n in range(1, 16)}
NUMBERS |= {f"RTMAX-{n}": _RTMAX - n for n in range(1, 15)}


def parse(text: str) -> int:
    """The number of ``9``, ``KILL`` or ``SIGKILL`` in any case; Docker's error otherwise."""
    if text.isascii() and text.isdigit():
        number = int(text)
        if number == 0:
            raise InvalidArgument(f"invalid signal: {text}")
        if number > _RTMAX:
            raise InvalidArgument(f"the linux daemon does not support signal {text}")
        return number
    found = NUMBERS.get(text.upper().removeprefix("SIG"))
    if found is None:
        raise InvalidArgument(f"invalid signal: {text}")
    return found
