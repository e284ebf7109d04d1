"""Runs a plan and dies by SIGKILL where it is told: `killed.py PLAN.json FOLDER WHERE [FOLDER WHERE ...]`.

WHERE is `creating` (the file's tables lie on the disk, but their transaction is open), `writing:N` (so do rows of the
N-th batch), `between:N` (before the N-th batch), or `anywhere:SEED` (soon after it has written something). Each is a
process of its own, forked once all is imported; the exit statuses are printed.
"""

import json
import os
import random
import signal
import sqlite3
import sys
import time
from pathlib import Path

from captum_extract_aggregate.evaluation import plan_from, run


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Killing(sqlite3.Connection):
    kind, number, batches = "", 0, 0

    def spill(self):
        """What is written goes to the disk long before COMMIT."""
        super().execute("PRAGMA cache_size = 1")
        super().execute("CREATE TABLE filler (x TEXT)")
        super().executemany("INSERT INTO filler VALUES (?)", [("x" * 3000,)] * 50)

    def execute(self, statement, *arguments):
        if statement.startswith("PRAGMA application_id =") and self.kind == "creating":
            self.spill()
            die()
        return super().execute(statement, *arguments)

    def executemany(self, statement, rows):
        if statement.startswith("INSERT INTO batches"):
            Killing.batches += 1
            if self.kind == "between" and Killing.batches == self.number:
                super().execute("ROLLBACK")
                die()
        done = super().executemany(statement, rows)
        if statement.startswith("INSERT INTO rows") and self.kind == "writing" and Killing.batches == self.number:
            self.spill()
            die()
        return done


def connect(path, **options):
    is_part = str(path).endswith(".sqlite")
    return original(path, **options, **({"factory": Killing} if is_part else {}))


def written(folder):
    part = Path(folder) / "part-0000.sqlite"
    return part.stat().st_mtime_ns if part.exists() else 0


def wait_for_a_write(folder, process):
    """Until the process has opened the file and added to it, or has ended."""
    seen, last = 0, written(folder)
    while seen < 2 and os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        now = written(folder)
        seen, last = seen + (now != last), now
        time.sleep(0.0005)


if __name__ == "__main__":
    plain = json.loads(Path(sys.argv[1]).read_text())
    original, sqlite3.connect = sqlite3.connect, connect
    for folder, where in zip(sys.argv[2::2], sys.argv[3::2]):
        kind, _, number = where.partition(":")
        process = os.fork()
        if not process:
            Killing.kind, Killing.number = kind, int(number or 0)
            run(plan_from(plain), folder, show_progress=False)
            os._exit(0)
        if kind == "anywhere":
            wait_for_a_write(folder, process)
            time.sleep(random.Random(int(number)).random() * 0.1)
            os.kill(process, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
