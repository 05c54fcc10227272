"""What a server takes of an environment: megabytes on disk, seconds until it listens, memory.

python -m venv bare && bare/bin/pip install . && python -m benchmarks.environment bare
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

_STARTS = 5


def start(environment: Path) -> tuple[float, float]:
    """Seconds from the command to its first line, and the megabytes that it holds then."""
    begin = time.monotonic()
    command = [str(environment / "bin" / "tapml"), "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        seconds = time.monotonic() - begin
        megabytes = psutil.Process(server.pid).memory_info().rss / 1e6
        server.terminate()
        server.communicate()
    return seconds, megabytes


def main() -> None:
    environment = Path(sys.argv[1]).resolve()
    blocks = sum(path.lstat().st_blocks for path in environment.rglob("*") if path.is_file())
    print(f"{blocks * 512 / 1e6:.0f} MB on disk")
    found = [start(environment) for _ in range(_STARTS)]
    seconds = sorted(second for second, _ in found)
    print(f"serve listens after {seconds[0]:.2f} to {seconds[-1]:.2f} s", end="; ")
    print(f"it holds {max(megabytes for _, megabytes in found):.0f} MB")


if __name__ == "__main__":
    main()
