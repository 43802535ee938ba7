"""Leaving a process whose libraries cannot be torn down safely."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """Exit now, with everything flushed and without destructors.

    gloo's and the TCP store's threads may still be joinable when the interpreter tears its libraries down; C++ then
    calls std::terminate, and now and then a rank that did all its work dies with SIGABRT.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
