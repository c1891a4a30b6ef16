"""Starts the real binary for a script and says where it listens; knows nothing of MCP."""

import contextlib
import hashlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "torture"))
import cluster  # noqa: E402

ADDRESS = re.compile(r"http://(?:127\.0\.0\.1|localhost|\[::1\]):\d+")


def environment(home, **extra):
    """The caller's environment without its Baton settings, and with a home folder that the run may fill."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BATON_", "XDG_"))}
    return kept | {"HOME": str(home)} | database(home) | extra


def database(home):
    """Where the data is, when the tests are for PostgreSQL: a database for each home folder."""
    server = os.environ.get("BATON_TEST_DATABASE")
    if not server:
        return {}
    name = "baton_" + hashlib.sha256(str(home).encode()).hexdigest()[:16]
    # There may be one already: the home folder is used again.
    made = [cluster.program("psql"), f"{server}/postgres", "-Xqc", f"CREATE DATABASE {name}"]
    subprocess.run(made, capture_output=True, check=False)
    # On PostgreSQL servers make no master key up.
    return {"BATON_DATABASE": f"{server}/{name}", "BATON_MASTER_KEY": hashlib.sha256(b"the tests' own").hexdigest()}


class Server:
    """`baton serve` on a port of its own. `log` holds what it wrote, for the message of a failing case."""

    def __init__(self, binary, data, *options, listen="127.0.0.1:0"):
        command = [binary, "serve", "--listen", listen, "--data", str(data), *options]
        self.log = []
        self.process = subprocess.Popen(
            command,
            env=environment(data),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._ready = threading.Event()
        self.url = None
        threading.Thread(target=self._listen, daemon=True).start()
        if not self._ready.wait(30) or self.url is None:
            self.kill()
            raise RuntimeError(f"{' '.join(command)} did not say where it listens:\n{self.tail()}")

    def _listen(self):
        for line in self.process.stdout:
            self.log.append(line)
            # A long run must not keep every line; the tail is what explains a failure.
            del self.log[:-2000]
            if self.url is None and (found := ADDRESS.search(line)):
                self.url = found.group()
                self._ready.set()
        self._ready.set()

    def tail(self, lines=40):
        return "".join(self.log[-lines:])

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        """Asks it to end as a supervisor would; returns the exit code."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
