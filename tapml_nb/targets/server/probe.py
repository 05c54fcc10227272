"""Describe a device of this machine as JSON: ``-m tapml_nb.targets.server.probe KIND NUMBER``.

In a process of its own, because a driver may start threads, or crash.
"""

from __future__ import annotations

import json
import sys

from tapml_nb.targets.server.session_process import load_runtime


def main() -> None:
    """Print what the device says of itself, or ``{"missing": why}``."""
    load_runtime()
    from tapml_nb.targets.devices.registry import open_device

    try:
        answer = open_device(sys.argv[1], int(sys.argv[2])).describe()
    except Exception as error:
        answer = {"missing": " ".join(str(error).split())}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
