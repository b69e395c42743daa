"""Command line: ``python -m bench run`` and ``python -m bench list``.

Without an endpoint it starts a Longshore of this checkout in roots of its own, and removes it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import measure, report
from bench.endpoint import Endpoint
from bench.jobs import JOBS
from tests.engine import OwnEngine


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="print the jobs")
    run = commands.add_parser("run", help="run jobs and print medians and ratios")
    run.add_argument(
        "-e",
        "--endpoint",
        action="append",
        default=[],
        metavar="NAME=unix://SOCKET",
        help="an engine; repeatable; default: one of this checkout",
    )
    run.add_argument("-j", "--job", action="append", default=[], help="only this job; repeatable")
    run.add_argument("-r", "--rounds", type=int, default=5, help="rounds over all endpoints (5)")
    run.add_argument("-b", "--base", help="what ratios are to; default: the last endpoint")
    run.add_argument("--json", type=Path, help="write all samples to this file")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.command == "list":
        for job in JOBS:
            print(f"{job.name:16} {job.what}")
        return
    known = {job.name: job for job in JOBS}
    if unknown := set(options.job) - set(known):
        sys.exit(f"no such job: {', '.join(sorted(unknown))}")
    with ExitStack() as stack:
        endpoints = connect(options.endpoint, stack)
        base = options.base or endpoints[-1].name
        if base not in [endpoint.name for endpoint in endpoints]:
            sys.exit(f"--base {base}: no such endpoint")
        results = []
        for name in options.job or known:
            print(f"{name}: {known[name].what}", file=sys.stderr)
            results.append(measure.run_job(known[name], endpoints, options.rounds))
        show(results, endpoints, base, options.json)
    if any(result.failures for result in results):
        sys.exit(1)


def connect(wanted: Sequence[str], stack: ExitStack) -> list[Endpoint]:
    pairs = [text.partition("=")[::2] for text in wanted]
    if not pairs:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        engine = OwnEngine(scratch)
        stack.callback(engine.destroy)
        engine.start()
        pairs = [("longshore", engine.host)]
    endpoints = []
    for name, host in pairs:
        endpoint = Endpoint(name, host)
        endpoint.prepare()
        stack.callback(endpoint.clean)
        endpoints.append(endpoint)
    return endpoints


def show(
    results: Sequence[measure.JobResult],
    endpoints: Sequence[Endpoint],
    base: str,
    path: Path | None,
) -> None:
    for key, value in report.machine().items():
        print(f"{key}: {value}")
    for endpoint in endpoints:
        print(f"{endpoint.name}: version {endpoint.version} at {endpoint.host}")
    print("medians; in brackets the smallest and largest median of a round\n")
    print(report.table(results, endpoints, base))
    if path:
        path.write_text(json.dumps(report.as_json(results, endpoints, base), indent=1) + "\n")


if __name__ == "__main__":
    main()
