"""Run a command and write its cost as JSON. A separate process that uses only the standard library.

    python -S measure.py COST.json LOG.txt COMMAND ...

It is small on purpose: Linux counts the memory of the process that starts a command toward the peak of that command.
CPU seconds are those of the command and all its descendants, from the start of the process to its end, including
orphans where the system reparents them (Linux). Peak memory is that of the largest process.
"""

import ctypes
import json
import os
import resource
import sys
import time

PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    cost, log, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with open(log, "wb") as out:  # noqa: PTH123 - pathlib would be one more module to load
        files = [(os.POSIX_SPAWN_DUP2, out.fileno(), 1), (os.POSIX_SPAWN_DUP2, out.fileno(), 2)]
        began = time.monotonic()
        pid = os.posix_spawnp(command[0], command, os.environ, file_actions=files)
        _, status = os.waitpid(pid, 0)
        wall = time.monotonic() - began
    try:
        while True:
            os.wait()  # for what the command left behind
    except ChildProcessError:
        pass
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "exit_code": os.waitstatus_to_exitcode(status),
        "wall_s": round(wall, 3),
        "cpu_s": round(used.ru_utime + used.ru_stime, 3),
        "system_s": round(used.ru_stime, 3),
        "peak_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }
    with open(cost, "w") as f:  # noqa: PTH123
        json.dump(figures, f)


if __name__ == "__main__":
    main()
