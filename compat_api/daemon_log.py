"""longshored: its log on standard error, in dockerd's two formats.

``time="..." level=info msg="API listen on /var/run/docker.sock"`` or one JSON object for each line.
Scripts and init systems wait for such lines.
"""

from __future__ import annotations

import json
import logging

from common.times import rfc3339_nano

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
NAMES = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}


class Formatter(logging.Formatter):
    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        moment = rfc3339_nano(int(record.created * 1_000_000_000))
        level = NAMES.get(record.levelno, "info")
        if self._as_json:
            return json.dumps({"level": level, "msg": message, "time": moment})
        # Quoting also keeps what a client sent from looking like a line of ours.
        return f'time="{moment}" level={level} msg={json.dumps(message, ensure_ascii=False)}'


def configure(*, level: str, debug: bool, log_format: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter(as_json=log_format == "json"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if debug else LEVELS[level])
    # Their debug messages are about themselves.
    for library in ("asyncio", "grpc"):
        logging.getLogger(library).setLevel(logging.WARNING)
