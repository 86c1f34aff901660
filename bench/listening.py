"""From a server's start to its open port, and to its first answer, in milliseconds.

    python -m smelt.bench.listening --rounds 15

Each round is a process of its own, `python -m smelt.api serve` with the built-in model. The answer is that of /health:
503 while the weights load. `cpu` is what the main thread has computed until the port was open, where the system tells
it: on a machine that does other things as well, the times grow and it does not.
"""

import argparse
import http.client
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path


def main_thread_ms(pid: int) -> float | None:
    path = Path(f"/proc/{pid}/task/{pid}/schedstat")
    return int(path.read_text().split()[0]) / 1e6 if path.exists() else None


def one_start() -> dict[str, float]:
    command = [sys.executable, "-m", "smelt.api", "serve", "--port", "0", "--log-level", "error"]
    environ = os.environ | {"PYTHONUNBUFFERED": "1"}
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        try:
            line = process.stdout.readline()
            found = {"listening": 1e3 * (time.perf_counter() - began)}
            if cpu := main_thread_ms(process.pid):
                found["cpu"] = cpu
            ask(port_in(line))
            return found | {"answer": 1e3 * (time.perf_counter() - began)}
        finally:
            process.kill()


def port_in(line: str) -> int:
    found = re.search(r":(\d+)$", line)
    return int(found[1]) if found else sys.exit("the server did not start; what it said is above")


def ask(port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/health")
    connection.getresponse().read()
    connection.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    one_start()  # brings files to memory
    starts = [one_start() for _ in range(rounds)]
    for key in starts[0]:
        values = [start[key] for start in starts]
        print(f"{key:>10}  min {min(values):4.0f}  median {statistics.median(values):4.0f}  max {max(values):4.0f} ms")


if __name__ == "__main__":
    main()
