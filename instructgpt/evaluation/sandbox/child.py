"""What the sandboxed process runs: limits, the filter of system calls, then the program from standard input.

Started by `sandbox.run` from its path with `python -I`; standard library only. The first line of the input is
JSON with `token`, `cpu_seconds`, `memory_bytes` and `filter`; the rest is the program. The answer is one line
on the standard output that was there at the start: the token, and `passed` or `failed` with the reason.
"""

from __future__ import annotations

import json
import os
import runpy
import sys


def _limit(settings: dict[str, int]) -> None:
    import resource

    def at_most(kind: int, value: int, more: int = 0) -> None:
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        top = value + more if hard == resource.RLIM_INFINITY else min(value + more, hard)
        resource.setrlimit(kind, (value, top))

    # The signal of the lower limit says why the process ended; that of the higher one kills.
    at_most(resource.RLIMIT_CPU, settings["cpu_seconds"], 1)
    at_most(resource.RLIMIT_FSIZE, 0)
    at_most(resource.RLIMIT_CORE, 0)
    at_most(resource.RLIMIT_NOFILE, 64)
    if sys.platform != "darwin":  # where it counts what is reserved and not used
        at_most(resource.RLIMIT_AS, settings["memory_bytes"])


def main() -> None:
    """Run the program and say how it ended."""
    settings = json.loads(sys.stdin.readline())
    source = sys.stdin.read()
    answer = os.dup(1)
    with open(os.devnull, "r+b", buffering=0) as nothing:
        for descriptor in (0, 1, 2):
            os.dup2(nothing.fileno(), descriptor)
    system_calls = runpy.run_path(os.path.join(os.path.dirname(__file__), "system_calls.py"))
    _limit(settings)
    token = settings["token"]
    if settings["filter"] and not system_calls["install"]():
        os.write(answer, f"{token} no filter\n".encode())
        os._exit(1)
    try:
        exec(compile(source, "<program>", "exec"), {})
        said = "passed"
    except BaseException as error:
        said = f"failed {type(error).__name__}: {str(error)[:300]!r}"
    os.write(answer, f"{token} {said}\n".encode("utf-8", "replace"))
    os._exit(0)  # threads and exit handlers of the program are not waited for


if __name__ == "__main__":
    main()
