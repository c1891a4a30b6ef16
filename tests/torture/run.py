#!/usr/bin/env python3
"""Kills Baton at random moments and looks whether it kept its word: run.py BINARY [--kills N] [--seed N] [--only crash|folder]"""

import argparse
import pathlib
import random
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "clients"))
import crash  # noqa: E402
import folder  # noqa: E402


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("binary", type=pathlib.Path)
    arguments.add_argument("--kills", type=int, default=12)
    arguments.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    arguments.add_argument("--only", choices=["crash", "folder"])
    given = arguments.parse_args()
    print(f"seed {given.seed}", flush=True)
    random.seed(given.seed)
    passed = failed = 0
    for part in (crash, folder):
        if given.only not in (None, part.__name__):
            continue
        with tempfile.TemporaryDirectory(prefix="baton-torture-") as data:
            for promise, broken in part.run(str(given.binary.resolve()), pathlib.Path(data), given.kills):
                passed += not broken
                failed += bool(broken)
                print(f"FAIL {promise}\n  " + "\n  ".join(broken[:10]) if broken else f"ok {promise}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
