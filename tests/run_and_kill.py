"""Runs the main command in forked children and kills each at a chosen write. Started by tests/test_resume.py as a program.

    python run_and_kill.py LOG '["segment/taught.jsonl", "judges/stepwiser.checkpoint#2"]' [arguments of minisw.reproduce …]

Every rename in the run folder is a write: files appear only by renaming. A child is killed by SIGKILL directly after the n-th
write of a name ("#n", the first without it), then the next child continues; the last one runs to its end. LOG gets the names
of all writes in order, a JSON list for each child. The exit status is 0 if all children ended as expected.
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from minisw import reproduce, runs


def child(arguments: list[str], kill_after: str | None) -> list[str]:
    """Run the command; the names that it wrote. Kills the process after the write `kill_after`."""
    command = reproduce.parse(arguments)
    name, _, count = (kill_after or "").partition("#")
    writes: list[str] = []
    rename = os.replace

    def replace(source, target) -> None:
        rename(source, target)
        writes.append(str(Path(target).relative_to(command.out)))
        if kill_after and writes.count(name) == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace
    reproduce.run(command)
    return writes


def main() -> None:
    log, kills, arguments = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
    torch.set_num_threads(1)  # a forked child has no thread pool
    runs.SHARD_ROUNDS = 0.1  # so that these few solutions come in several shards
    for kill_after in [*kills, None]:
        pid = os.fork()
        if pid == 0:
            writes = child(arguments, kill_after)
            log.write_text(json.dumps(writes), encoding="utf-8")
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if killed != bool(kill_after) or (not killed and status):
            sys.exit(f"the child that should be killed after {kill_after} ended with wait status {status}")


if __name__ == "__main__":
    main()
