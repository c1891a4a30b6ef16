#!/usr/bin/env python3
"""Tortures Baton and looks whether it kept its word: run.py BINARY [--kills N] [--seed N] [--only PART] [--database URL]

    planted   a lying proxy: does the checker find what is wrong?
    crash     kill -9 of the server under load
    folder    dead executors; several processes on one data folder
    replicas  several servers on one store behind a proxy that spreads the calls, killed at random
    faults    full disks, read-only and damaged files, slow and deaf clients, a stop under load

A part that fails leaves its folder, with the history that `check.py` judged.
"""

import argparse
import importlib
import pathlib
import random
import shutil
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "clients"))

PARTS = ("planted", "crash", "folder", "replicas", "faults")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary", type=pathlib.Path)
    arguments.add_argument("--kills", type=int, default=8)
    arguments.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments.add_argument("--only", choices=PARTS, action="append")
    arguments.add_argument("--database", help="replicas: a PostgreSQL database instead of a shared folder")
    given = arguments.parse_args()
    print(f"seed {given.seed}", flush=True)
    random.seed(given.seed)
    passed = failed = 0
    for name in given.only or PARTS:
        part, started = importlib.import_module(name), time.monotonic()
        more = {"database": given.database} if name == "replicas" else {}
        data, broke = pathlib.Path(tempfile.mkdtemp(prefix=f"baton-{name}-")), failed
        for promise, broken in part.run(str(given.binary.resolve()), data, given.kills, **more):
            passed += not broken
            failed += bool(broken)
            print(f"FAIL {promise}\n  " + "\n  ".join(broken[:10]) if broken else f"ok {promise}", flush=True)
        print(f"{name}: {time.monotonic() - started:.0f} s" + (f", see {data}" if failed > broke else ""), flush=True)
        if failed == broke:
            shutil.rmtree(data, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
