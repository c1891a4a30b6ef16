"""`kill -9` of the server under load: afterwards all that was acknowledged must be there, in order, once."""

import random
import time

import history as histories
from load import OPTIONS, Load
from server import Server
from wire import Http


def run(binary, data, kills):
    """Yields the name of each promise and what broke it."""
    current = {"server": Server(binary, data, *OPTIONS)}
    door = lambda: Http(lambda: current["server"].url)
    load = Load(data, door).start()
    for _ in range(kills):
        time.sleep(random.uniform(0.02, 0.5))
        current["server"].kill()
        current["server"] = Server(binary, data, *OPTIONS)
    time.sleep(1)
    hanging = load.finish()
    outcome = load.judged(door(), histories.log_of_folder(data, load.tenants))
    current["server"].stop()
    print(f"{kills} kills: {load}", flush=True)
    yield "every worker comes to an end", hanging
    yield "there was a load", [] if load.ended >= kills else ["fewer lives than kills"]
    yield from outcome.items()
    yield "the logs' chains are whole", histories.chained(binary, data, "--data", str(data))
