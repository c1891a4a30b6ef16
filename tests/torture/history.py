"""What clients did and were told, as JSON lines: one record a call, written when it is over. `check.py` judges it afterwards.

A record has `who` called, for which `tenant`, the `operation` and its `input`, `start` and `end` on this machine's monotonic
clock in seconds, and an `outcome`: `answer` or `error` with what came back, or `none`. What the store held in the end is a
file of its own: the tasks as callers see them, and each tenant's log.
"""

import json
import sqlite3
import subprocess
import threading
import time

from server import environment
from wire import Lost, Refused, Unavailable

# The most that `task_get` shows.
REPORTS = 200


class History:
    """Writes records; many threads may share one."""

    def __init__(self, path):
        self.path, self.file, self.lock = path, open(path, "w", encoding="utf-8"), threading.Lock()  # noqa: SIM115
        self.counts = {"answer": 0, "error": 0, "none": 0}

    def add(self, record):
        line = json.dumps(record) + "\n"
        with self.lock:
            self.counts[record["outcome"]] += 1
            if not self.file.closed:
                self.file.write(line)

    def close(self):
        with self.lock:
            self.file.close()
        return self.path

    def caller(self, who, tenant, door):
        return Caller(self, who, tenant, door)


class Caller:
    """One who calls through a door, and has it written down."""

    def __init__(self, history, who, tenant, door):
        self.history, self.who, self.tenant, self.door = history, who, tenant, door

    def call(self, operation, **given):
        record = {"who": self.who, "tenant": self.tenant, "operation": operation, "input": given, "start": time.monotonic()}
        try:
            record |= {"answer": self.door.call(operation, tenant=self.tenant, **given), "outcome": "answer"}
            return record["answer"]
        except (Refused, Unavailable) as error:
            record |= {"outcome": "error", "error": error.error}
            raise
        except Lost:
            record |= {"outcome": "none"}
            raise
        finally:
            record.setdefault("outcome", "none")
            record["end"] = time.monotonic()
            self.history.add(record)


def read(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def final(door, tenants, logs=None):
    """Everything the callers can see in the end, and the logs, if somebody can read them."""
    tasks = {tenant: {} for tenant in tenants}
    for tenant in tenants:
        cursor = {}
        while cursor is not None:
            page = door.call("task_list", tenant=tenant, limit=200, **cursor)
            for task in page["tasks"]:
                if task["task_id"] in tasks[tenant]:
                    raise AssertionError(f"task_list shows {task['task_id']} twice")
                tasks[tenant][task["task_id"]] = door.call(
                    "task_get", tenant=tenant, task_id=task["task_id"], notifications=REPORTS
                )
            cursor = {"cursor": page["next_cursor"]} if "next_cursor" in page else None
    return {"tasks": tasks, "logs": logs}


COLUMNS = "tenant_id, sequence, event_id, kind, subject"


def log_of_folder(data, tenants):
    """Each tenant's log as it stands in the file: its rows in the order of their numbers."""
    database = sqlite3.connect(f"file:{data}/baton.db?mode=ro", uri=True)
    try:
        rows = database.execute(f"SELECT {COLUMNS} FROM events ORDER BY tenant_id, sequence").fetchall()
    finally:
        database.close()
    return by_tenant(rows, tenants)


def log_of_database(url, tenants):
    """The same from PostgreSQL, by its own client; none where that is not installed."""
    names = ", ".join(f"'{tenant}'" for tenant in tenants)
    sql = f"SELECT json_build_array({COLUMNS}) FROM events WHERE tenant_id IN ({names}) ORDER BY tenant_id, sequence"
    try:
        # Row-level security shows a session its own tenant, or all to who asks for all.
        command = ["psql", url, "-qAtX", "-c", "SET baton.tenant = '*'", "-c", sql]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    except FileNotFoundError:
        print("psql is not installed: the logs are left to `baton doctor`", flush=True)
        return None
    return by_tenant([json.loads(line) for line in shown.stdout.splitlines()], tenants)


def by_tenant(rows, tenants):
    logs = {tenant: [] for tenant in tenants}
    for tenant, *event in rows:
        if tenant in logs:
            logs[tenant].append(event)
    return logs


def chained(binary, home, *store):
    """What is wrong with the logs' hash chains, as `baton doctor` says."""
    told = subprocess.run(
        [binary, "doctor", *store], env=environment(home), capture_output=True, text=True, timeout=300, check=False
    ).stdout
    line = next((line for line in told.splitlines() if "event log" in line), told)
    return [] if line.startswith("ok") else [line]
