"""Several `baton serve` on one store, behind a proxy that sends each call to one of them at random; they are killed with
`kill -9` and started again. The store is a shared folder, or a PostgreSQL database whose wire is cut and slowed."""

import contextlib
import random
import time
import urllib.parse

import cluster
import folder
import history as histories
from load import OPTIONS, Load
from server import Server
from wire import Http
from wirefault import Relay

REPLICAS = 3
# Starts that may fail one after another.
STARTS = 30
# How long after its commit a claim elsewhere has a task: a folder is looked at every 20 ms, a database tells by itself.
SEEN_WITHIN = {"folder": 0.1, "database": 0.05}
# Seconds that a connection to the database lives on average, and the mean delay of what goes over it.
CUT, SLOW = 2.0, 0.001


class Replicas:
    """The servers; any of them may be away for a while."""

    def __init__(self, start):
        self.start = start
        self.servers = [self.started(number) for number in range(REPLICAS)]

    def started(self, number):
        """A start that meets a fault fails; a supervisor tries again."""
        for _ in range(STARTS - 1):
            with contextlib.suppress(RuntimeError):
                return self.start(number)
            time.sleep(0.1)
        return self.start(number)

    def pick(self):
        live = [server for server in self.servers if server is not None]
        return urllib.parse.urlsplit(random.choice(live).url).netloc if live else None

    def restart(self, away):
        """Kills one and starts it again after a while. The others go on."""
        number = random.randrange(REPLICAS)
        server, self.servers[number] = self.servers[number], None
        server.kill()
        time.sleep(away)
        self.servers[number] = self.started(number)

    def close(self):
        for server in self.servers:
            if server is not None:
                server.kill()


class Store:
    """Where the replicas keep what they know, and how a test reads its logs."""

    def __init__(self, data, database=None):
        self.data, self.database = data, database
        self.kind = "database" if database else "folder"
        self.wire = None

    def faulty(self, **faults):
        """From now on, replicas that start reach the database over a bad wire. A folder has none."""
        if self.database:
            where = urllib.parse.urlsplit(self.database)
            target = f"{where.hostname}:{where.port or 5432}"
            self.wire = Relay(lambda: target, **faults)
        return self

    def options(self):
        if not self.database:
            return ("--data", str(self.data))
        if not self.wire:
            return ("--database", self.database)
        where = urllib.parse.urlsplit(self.database)
        user = where.netloc.rpartition("@")[0]
        return ("--database", where._replace(netloc=f"{user}@{self.wire.address}" if user else self.wire.address).geturl())

    def replica(self, binary, number):
        home = self.data / f"replica-{number}"
        home.mkdir(exist_ok=True)
        # The last of two `--data` would be an error, so a replica on a folder is told of it alone.
        return Server(binary, self.data if not self.database else home, *(self.options() if self.database else ()), *OPTIONS)

    def logs(self, tenants):
        if self.database:
            return histories.log_of_database(self.database, tenants)
        return histories.log_of_folder(self.data, tenants)

    def sound(self, binary):
        options = ("--database", self.database) if self.database else ("--data", str(self.data))
        return histories.chained(binary, self.data, *options)


def spread(binary, data, kills, what, store, database=None):
    """Kills replicas (and the database, if it is ours to kill) under load and has the history judged."""
    data.mkdir(exist_ok=True)
    # A database outlives this run: names of its own keep it apart from others.
    name = f"{random.randrange(1 << 32):08x}"
    tenants = (f"acme-{name}", f"zeta-{name}")
    replicas = Replicas(lambda number: store.replica(binary, number))
    relay = Relay(replicas.pick)
    try:
        door = lambda: Http(lambda: f"http://{relay.address}", keep=False)  # noqa: E731
        load = Load(data, door, workers=10, tenants=tenants).start()
        for _ in range(kills):
            time.sleep(random.uniform(0.05, 0.6))
            replicas.restart(random.uniform(0, 0.3))
            if database and random.random() < 0.25:
                database.kill()
                database.start()
        time.sleep(1)
        hanging = load.finish()
        # Over a bad wire, most of the time goes into coming back.
        least = kills / 2 if store.wire else kills
        if store.wire:
            print(f"{store.wire.cuts} of {store.wire.connections} connections to the database were cut", flush=True)
        one, other = (Http(lambda at=at: replicas.servers[at].url) for at in (0, 1))
        outcome = load.judged(one, store.logs(tenants))
        print(f"{REPLICAS} replicas on a {store.kind}, {kills} kills{what}: {load}", flush=True)
        yield f"replicas{what}: every worker comes to an end", hanging
        yield f"replicas{what}: there was a load", [] if load.ended >= least else [f"{load.ended} lives"]
        yield from ((f"replicas{what}: {promise}", broken) for promise, broken in outcome.items())
        yield f"replicas{what}: the logs' chains are whole", store.sound(binary)
        if not store.wire:
            yield from folder.seen(f"replicas{what}", one, other, SEEN_WITHIN[store.kind], tenants[0])
    finally:
        replicas.close()
        relay.close()
        if store.wire:
            store.wire.close()


def run(binary, data, kills, database=None):
    """On a folder, then on a database: the one that is named, else a cluster of the test's own, which is killed as well."""
    if not database:
        yield from spread(binary, data / "folder", kills, "", Store(data / "folder"))
    own = None
    if not database and cluster.is_installed():
        own = cluster.Cluster(data)
        database = own.url
    if not database:
        print("skipped: PostgreSQL is not installed", flush=True)
        return
    try:
        yield from spread(binary, data / "plain", kills, " and PostgreSQL", Store(data / "plain", database))
        faulty = Store(data / "faulty", database).faulty(cut=CUT, slow=SLOW)
        yield from spread(binary, data / "faulty", kills, " and PostgreSQL over a bad wire", faulty)
        if own:
            killed = Store(data / "killed", database)
            yield from spread(binary, data / "killed", kills, " and PostgreSQL killed too", killed, own)
    finally:
        if own:
            own.close()
