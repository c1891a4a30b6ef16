#!/usr/bin/env python3
"""Builds Baton for servers with much to do: train.py [--seconds S]

The compiler lays the program out by what calls do most (profile-guided optimisation): it builds one that counts, which is
then called for so many seconds by each measurement of run.py, and some more; what was counted goes into the build that
stays. Says where that is: `trained/release/baton` in the target folder. Needs rustup, whose component llvm-tools it adds
when it is missing, and takes two release builds. PostgreSQL is trained too where it is installed.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

# Before memory, which looks for modules among the tests first, where another one is called so.
from run import REPOSITORY, SEED, TARGET, Bench, Server, build, load

import memory  # isort: skip

# What measurements leave out.
LIST = ["--tool", "task_list", "--args", '{"limit":20}']
MEMORIES = 2_000


def output(*command):
    return subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.strip()


def merger():
    """The program that adds up counts: the one of the compiler, since others may not know the form."""
    found = pathlib.Path(output("rustc", "--print", "target-libdir")).parent / "bin" / "llvm-profdata"
    if not found.exists():
        subprocess.run(["rustup", "component", "add", "llvm-tools"], cwd=REPOSITORY, check=True)
    return found


def compile_with(flag, folder):
    """A release build of its own."""
    environment = os.environ | {"RUSTFLAGS": flag, "CARGO_TARGET_DIR": str(TARGET / folder)}
    subprocess.run(["cargo", "build", "--release", "--locked", "--quiet"], cwd=REPOSITORY, env=environment, check=True)
    return TARGET / folder / "release" / "baton"


def train(binary, seconds):
    bench = Bench(str(binary), seconds)
    for name, bare, take in bench.measurements():
        if bare:
            print(f"training: {name}", file=sys.stderr)
            take()
    with tempfile.TemporaryDirectory(prefix="baton-train-") as data, Server(str(binary), data) as server:
        url = f"{server.url}/mcp"
        load("http", "--url", url, *SEED, "--requests", 100, "--warmup", 0)
        load("http", "--url", url, *LIST, *bench.timed(64))
        memory.fill(server.url, MEMORIES)
        memory.search(server.url)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=3)
    given = arguments.parse_args()
    merge, counts = merger(), TARGET / "training" / "counts"
    # The load generator; of the program itself there is another one here.
    build(binary=True)
    counting = compile_with(f"-Cprofile-generate={counts}", "training")
    shutil.rmtree(counts, ignore_errors=True)
    train(counting, given.seconds)
    merged = TARGET / "training" / "baton.profdata"
    subprocess.run([merge, "merge", "--output", merged, counts], check=True)
    print(compile_with(f"-Cprofile-use={merged}", "trained"))


if __name__ == "__main__":
    sys.exit(main())
