#!/usr/bin/env python3
"""Holds the REST API to its OpenAPI document: run.py BINARY

schemathesis calls every operation of the real server with what the document allows and with what it forbids: no 5xx, every answer as
documented, what the schema forbids refused, and what it allows refused only for reasons that `hooks.py` names. Every operation must
have succeeded at least once. BATON_TEST_PYTHON (an interpreter with schemathesis) is set by test.sh; BATON_TEST_DATABASE names a
PostgreSQL, if it is to be one.
"""

import collections
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "clients"))
from server import Server  # noqa: E402

TIME_LIMIT = 240
# Each on a server of its own, at once. What ends others is apart from them: it deletes tenants, and leaves them no calls.
ENDING = [part for name in ("limits_set", "tenant_configure", "tenant_configure_2", "tenant_delete") for part in ("operation-id", name)]
TASKS = ["tag", "task", "tag", "key"]
RUNS = [("exclude", [*ENDING, *TASKS]), ("include", TASKS), ("include", ENDING)]
# What a schema allows and the server refuses is judged by `hooks.py`, which knows why.
OPTIONS = [
    "--phases", "examples,coverage,fuzzing", "--max-examples", "3", "--generation-deterministic", "--no-shrink",
    "--checks", "all", "--exclude-checks", "positive_data_acceptance", "--continue-on-failure", "--request-timeout", "30",
    # No text may hold NUL, which is said once and not in each schema.
    "--generation-allow-x00", "false", "--workers", "1", "--warnings", "off", "--no-color",
]


def hold(binary, home, what, chosen):
    """Runs schemathesis on the operations that are chosen; whether all held, and the statuses by operation."""
    home.mkdir()
    told = home / "statuses.json"
    options = [f"--{what}-{part}" if at % 2 == 0 else part for at, part in enumerate(chosen)]
    with Server(binary, home / "data") as server:
        env = os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE), "BATON_TEST_STATUSES": str(told), "BATON_TEST_URL": server.url}
        command = [os.environ["BATON_TEST_PYTHON"], "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", *OPTIONS, *options]
        done = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=TIME_LIMIT)
        if done.returncode:
            print(done.stdout[-30000:], done.stderr[-5000:], server.tail(), sep="\n", flush=True)
    return done.returncode == 0, json.loads(told.read_text())


def main():
    binary = str(pathlib.Path(sys.argv[1]).resolve())
    passed = failed = 0
    seen = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="baton-openapi-") as folder, concurrent.futures.ThreadPoolExecutor(2) as pool:
        homes = [pathlib.Path(folder) / str(number) for number in range(len(RUNS))]
        for is_good, statuses in pool.map(lambda home, run: hold(binary, home, *run), homes, RUNS):
            failed += not is_good
            for operation, counts in sorted(statuses.items()):
                is_reached = "200" in counts
                passed, failed = passed + is_reached, failed + (not is_reached)
                if not is_reached:
                    print(f"FAIL {operation} never succeeded: {counts}")
                seen.update(counts)
    print(f"answers by status: {dict(sorted(seen.items()))}")
    print(f"{passed} passed, {failed} failed", flush=True)
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
