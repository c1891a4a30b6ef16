#!/usr/bin/env python3
"""A PostgreSQL cluster of the test's own: on a free port of loopback, gone with the test. It may be killed like everything else.

    cluster.py COMMAND…   runs the command with BATON_TEST_DATABASE naming such a cluster, which forgets what a crash would lose
    cluster.py            says by its exit code whether PostgreSQL is installed

BATON_TEST_PGVECTOR names a folder of PostgreSQL's programs, of a server that has pgvector: every new database has it then.
"""

import glob
import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse


def program(name):
    """Where a program of the server is, which Debian does not put on the path."""
    if own := os.environ.get("BATON_TEST_PGVECTOR"):
        return os.path.join(own, name)
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), reverse=True)
    return shutil.which(name) or (found[0] if found else None)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Cluster:
    """Started, with an empty database `baton` that a plain role owns: row-level security binds it."""

    def __init__(self, place, *options):
        # The server refuses to run as root.
        self.user = next((name for name in ("postgres", "nobody") if exists(name)), None) if os.geteuid() == 0 else None
        self.place, self.port = pathlib.Path(place) / "cluster", free_port()
        self.place.mkdir(parents=True)
        if self.user:
            for folder in (self.place, *self.place.parents):
                # A temporary folder is its owner's alone.
                if folder.stat().st_uid == os.geteuid() and str(folder).startswith(("/tmp/", "/dev/shm/")):
                    folder.chmod(folder.stat().st_mode | 0o011)
            shutil.chown(self.place, self.user)
        self.run(program("initdb"), "-D", self.data, "-U", "admin", "-A", "trust", "--no-sync", "-E", "UTF8")
        self.process, self.options = None, options
        self.start()
        if os.environ.get("BATON_TEST_PGVECTOR"):
            self.sql("CREATE EXTENSION vector", "template1")
        self.sql("CREATE ROLE baton LOGIN CREATEDB NOBYPASSRLS")
        self.sql("CREATE DATABASE baton OWNER baton")

    @property
    def data(self):
        return str(self.place / "data")

    @property
    def url(self):
        return f"{self.server}/baton"

    @property
    def server(self):
        return f"postgres://baton@127.0.0.1:{self.port}"

    @property
    def socket(self):
        """The same by way of its Unix socket, as on one machine PostgreSQL's own clients go."""
        return f"postgres://baton@{urllib.parse.quote(str(self.place), safe='')}:{self.port}"

    def run(self, *command):
        done = subprocess.run(command, user=self.user, cwd=self.place, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stderr}")

    def sql(self, text, database="postgres"):
        self.run(program("psql"), f"postgres://admin@127.0.0.1:{self.port}/{database}", "-Xqc", text)

    def start(self):
        # Durable as in earnest unless told otherwise: what is acknowledged must survive a kill.
        options = ("-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.place), *self.options)
        with open(self.place / "log", "a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [program("postgres"), "-D", self.data, *options], user=self.user, cwd=self.place, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                return self.sql("SELECT 1")
            except RuntimeError:
                time.sleep(0.1)
        raise RuntimeError(f"the cluster did not start, see {self.place / 'log'}")

    def kill(self):
        """`kill -9` of the server. Its children see it and end."""
        self.process.kill()
        self.process.wait()
        # The next start waits for them: two servers on one folder would be the test's fault.
        deadline = time.monotonic() + 30
        while self.has_children() and time.monotonic() < deadline:
            time.sleep(0.05)
        (pathlib.Path(self.data) / "postmaster.pid").unlink(missing_ok=True)

    def has_children(self):
        for entry in pathlib.Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.readlink(entry / "cwd") == self.data:
                    return True
            except OSError:
                continue
        return False

    def close(self):
        self.process.terminate()
        self.process.wait()


def exists(user):
    try:
        return bool(pwd.getpwnam(user))
    except KeyError:
        return False


def memory():
    """A file system in memory with room enough, if there is one: a database of its own for each test is hundreds of files."""
    place = "/dev/shm"
    return place if os.path.isdir(place) and shutil.disk_usage(place).free > 4 << 30 else None


def is_installed():
    return all(program(name) for name in ("initdb", "postgres", "psql"))


def main():
    if not sys.argv[1:]:
        return 0 if is_installed() else 1
    # Hundreds of small databases that nobody will miss.
    lean = ("fsync=off", "full_page_writes=off", "autovacuum=off", "wal_level=minimal", "max_wal_senders=0", "shared_buffers=32MB")
    options = ("-N", "300", *(part for setting in lean for part in ("-c", setting)))
    with tempfile.TemporaryDirectory(prefix="baton-postgres-", dir=memory()) as place:
        cluster = Cluster(place, *options)
        try:
            return subprocess.run(sys.argv[1:], env=os.environ | {"BATON_TEST_DATABASE": cluster.server}, check=False).returncode
        finally:
            cluster.close()


if __name__ == "__main__":
    sys.exit(main())
