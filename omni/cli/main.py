"""Where the `omni` command begins: Ctrl-C ends it with one line, even while its libraries are being imported."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""


def main() -> None:
    try:
        from omni.cli.app import app

        app()
    except (KeyboardInterrupt, SystemExit) as e:
        if isinstance(e, SystemExit) and e.code != INTERRUPTED:
            raise
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        print("\nstopped", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)  # threads of the model still run, and ending Python beneath them would abort
