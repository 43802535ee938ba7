"""How values cross between the program's process and the tests': each side has one `Crossing`.

Plain values are copied. Mutable ones are copied and kept in step (`shared`). Everything else stays where it is and is
spoken of by a number: an object as {"h"}, with its class, of which a description goes ahead once; what comes home is
{"H"}. Nothing of the sender's is ever executed here: decoding makes values, stand-ins, or raises `NotPlain`.
"""

from __future__ import annotations

from rgopd.verifier.sandbox.incoming import Incoming
from rgopd.verifier.sandbox.outgoing import Outgoing


class Crossing(Outgoing, Incoming):
    """Encodes and decodes messages of one side."""
