"""Scripts in child processes, forked from one that has imported what they use.

Importing torch takes a child of its own longer than what most scripts are there for.
The process that forks has used no threads, so that its children are like any other
process; a script that needs another environment when it starts needs one of its own.
"""

import atexit
import functools
import gc
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from tests.forked import PATIENCE

ROOT = Path(__file__).parents[1]


# CPU seconds of children that have ended, which are not this process's own.
_taken = []


def cpu_seconds():
    """CPU seconds of all scripts that have ended."""
    return sum(_taken)


class Child:
    """A script in a process, with the methods of ``subprocess.Popen``.

    Parameters
    ----------
    script : str
    arguments : iterable of str
        ``sys.argv[1:]`` of the script.
    folder : Path
        Where it runs. What it writes is kept in a file there until it has ended.
    """

    def __init__(self, script, arguments, folder):
        self.returncode = None
        name = f"{time.monotonic_ns()}"
        self._shown = [Path(folder, f".{name}.{kind}") for kind in ("out", "error")]
        self.pid = _ask(
            script=script,
            arguments=[str(argument) for argument in arguments],
            folder=str(folder),
            shown=[str(path) for path in self._shown],
        )

    def wait(self, timeout=PATIENCE):
        """Wait for the end of the script, and return its status."""
        if self.returncode is None:
            ended = _ask(pid=self.pid, seconds=timeout)
            if ended is None:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            self.returncode, taken = ended
            _taken.append(taken)
        return self.returncode

    def communicate(self, timeout=PATIENCE):
        """Wait for its end, and return what it has written."""
        self.wait(timeout)
        return tuple(path.read_text() for path in self._shown)

    def kill(self):
        """Kill it, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


@functools.cache
def _server():
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.children"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    def end():
        # It ends with its input.
        server.stdin.close()
        server.wait()
        server.stdout.close()

    atexit.register(end)
    return server


def _ask(**order):
    """Have an order carried out, and return what is answered."""
    server = _server()
    server.stdin.write(json.dumps(order) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


def run(script, arguments, folder, shown):
    """Become the process of a script, in a child that was just forked."""
    from skdeepfactor._estimator import environment

    environment._IMPORTED_BY = os.getpid()
    # What runs in the background of a shell has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    for path, stream in zip(shown, (sys.stdout, sys.stderr), strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream.fileno())
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    sys.argv[1:] = arguments
    code = 0
    try:
        exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # To take down what was imported would take as long as to import it.
    os._exit(code)


def ended(pid, seconds):
    """The status of a child, and the CPU seconds that it took; None if it runs on."""
    until = time.monotonic() + seconds
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return code, usage.ru_utime + usage.ru_stime
        if time.monotonic() > until:
            return None
        time.sleep(0.01)


def serve():
    """Carry out an order in each line of the input: to fork, or to wait."""
    import tests.conftest  # noqa: F401 (what scripts import is then there)

    gc.freeze()
    running = set()
    for order in map(json.loads, iter(sys.stdin.readline, "")):
        if "script" in order:
            answer = os.fork()
            if answer == 0:
                run(**order)
            running.add(answer)
        else:
            answer = ended(**order)
            if answer is not None:
                running.remove(order["pid"])
        print(json.dumps(answer), flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    serve()
