"""Finding the program in a response."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rgopd.verifier.code.blocks import Block, fenced, tagged, unfenced
from rgopd.verifier.code.pieces import Piece, lines_of, source_of
from rgopd.verifier.reading import after_reasoning

ALIASES = {
    "python": ("python", "sage"),
    "bash": ("bash", "sh", "shell", "zsh", "console"),
    "javascript": ("javascript", "js", "node", "nodejs"),
    "cpp": ("cpp", "c++", "cc", "cxx"),
}
MAX_BLOCKS = 64
"""Blocks that are looked at, from the end."""

MAX_PARSED = 1 << 15
"""Characters of code that are parsed here, in the service; beyond it the last fitting block is taken by its look."""

_CODE = re.compile(r"[=(;]|^\s{0,80}(?:import|from|def|class|for|while|if|echo)\b", re.MULTILINE)
_OTHERS = """bash sh shell zsh console text txt output plaintext plain json yaml xml html css sql javascript js
typescript ts java c cpp c++ cc cxx csharp cs go rust ruby php kotlin swift r julia matlab latex tex markdown md diff
toml ini csv pycon powershell cmd bat haskell scala perl lua none stdin stdout input"""
_NO_PYTHON = frozenset(_OTHERS.split())


def program(response: str, language: str = "python", names: Iterable[str] = ()) -> str:
    """The code of a response: for Python the last whole version, with what it needs from other blocks and what later
    ones correct; `names` (those that tests call) tell which is whole, and that calls which only show them at work
    are left out. For other languages the last block tagged with it. Code without fences is found between its prose;
    where nothing is, the response itself, byte for byte.
    """
    text = after_reasoning(response, of_program=True).removeprefix("\ufeff")
    wanted = frozenset(name.partition(".")[0] for name in names)
    blocks = (fenced(text) or tagged(text))[-MAX_BLOCKS:]
    if language != "python":
        return _last(blocks, language) if blocks else text
    if not blocks:
        return _between_prose(text, wanted)
    sorts = _sorts(blocks)
    if sum(len(block.body) for block in blocks) > MAX_PARSED:
        return _by_look(sorts, wanted)
    return _chosen(sorts, wanted)


def _last(blocks: Sequence[Block], language: str) -> str:
    own = [block.body for block in blocks if block.tag in ALIASES.get(language, (language,))]
    rest = own or [b.body for b in blocks if not b.tag and _CODE.search(b.body)] or [b.body for b in blocks]
    whole = [body for body in rest if language != "cpp" or re.search(r"\bmain\s{0,5}\(", body)]
    return (whole or rest)[-1]


def _sorts(blocks: Sequence[Block]) -> list[list[str]]:
    """From the likeliest: tagged Python, untagged code, other untagged, whatever there is."""
    untagged = [block.body for block in blocks if not block.tag]
    return [
        [block.body for block in blocks if block.tag in ALIASES["python"]],
        [body for body in untagged if _CODE.search(body)],
        untagged,
        [block.body for block in blocks if block.tag not in _NO_PYTHON],
        [block.body for block in blocks],
    ]


def _by_look(sorts: Sequence[Sequence[str]], wanted: frozenset[str]) -> str:
    for bodies in sorts:
        for body in reversed(bodies):
            if any(defines(body, name) for name in wanted):
                return body
    return next(bodies for bodies in sorts if bodies)[-1]


def _chosen(sorts: Sequence[Sequence[str]], wanted: frozenset[str]) -> str:
    """The program out of blocks of one sort: the first that has the wanted names, else the first that is not empty."""
    found = [[Piece(body) for body in bodies] for bodies in sorts[:4]]
    for pieces in found:
        if wanted and any(piece.defines & wanted for piece in pieces):
            return _assembled(pieces, wanted)
    return _assembled(next((pieces for pieces in found if pieces), [Piece(body) for body in sorts[-1]]), wanted)


def _assembled(pieces: Sequence[Piece], wanted: frozenset[str]) -> str:
    at = _whole(pieces, wanted)
    main = pieces[at]
    if main.tree is None:
        return main.source
    tested = bool(main.defines & wanted)
    source = main.without(main.demos(wanted)) if tested else main.source
    if len(pieces) == 1:  # most responses: nothing else to take anything from
        return source
    source, added = _corrected(source, main, pieces[at + 1 :])
    have, need = set(main.defines) | {n for piece in added for n in piece.defines}, set(main.needs)
    need |= (wanted if tested else set()) | {n for piece in added for n in piece.needs}
    helpers = _helpers([*pieces[:at], *pieces[at + 1 :]], need - have)
    order = {id(piece): number for number, piece in enumerate(pieces)}
    before = [_usable(p, wanted) for p in sorted({*helpers, *added}, key=lambda p: order.get(id(p), len(pieces)))]
    return _joined([*before, source]) if before else source


def _whole(pieces: Sequence[Piece], wanted: frozenset[str]) -> int:
    """The last piece that has all wanted names that any has; for a program, that reads and prints, or prints."""
    names = wanted & frozenset(name for piece in pieces for name in piece.defines)
    ranks = [
        (
            len(piece.defines & names) if names else 0,
            0 if names else 2 * (piece.prints and piece.reads) + piece.prints,
            piece.tree is not None,
        )
        for piece in pieces
    ]
    best = max(ranks)
    return max(number for number, rank in enumerate(ranks) if rank == best)


def _corrected(source: str, main: Piece, later: Sequence[Piece]) -> tuple[str, list[Piece]]:
    """Functions that a later block gives anew take their places; the blocks whose other names these need."""
    anew: dict[str, str] = {}
    added: list[Piece] = []
    for piece in later:
        again = [node for node in piece.definitions() if node.name in main.defines]
        anew |= {node.name: source_of(piece, node) for node in again}
        if again and piece.tree is not None and piece.defines - main.defines:
            added.append(Piece("".join(source_of(piece, node) for node in piece.tree.body if node not in again)))
    current = Piece(source) if anew else main
    if not anew or current.tree is None:
        return source, []
    lines = source.splitlines(keepends=True)
    for node in reversed([node for node in current.definitions() if node.name in anew]):
        new = anew[node.name]
        span = lines_of(node)
        lines[span.start - 1 : span.stop - 1] = [new if new.endswith("\n") else new + "\n"]
    return "".join(lines), added


def _helpers(others: Sequence[Piece], missing: set[str]) -> list[Piece]:
    """The pieces that define what is missing, the latest of each name, and what those need in turn."""
    found: list[Piece] = []
    while missing:
        name = missing.pop()
        piece = next((p for p in reversed(others) if name in p.defines), None)
        if piece is not None and piece not in found:
            found.append(piece)
            missing |= piece.needs - {n for p in found for n in p.defines}
    return found


def _usable(piece: Piece, wanted: frozenset[str]) -> str:
    """Its definitions, imports and constants."""
    return piece.without(piece.demos(wanted | {"print"}))


def _joined(sources: Sequence[str]) -> str:
    lines = [
        line for source in sources for line in (source if source.endswith("\n") else source + "\n").splitlines(True)
    ]
    first = [line for line in lines if line.startswith("from __future__ import")]  # has to stay first
    return "".join([*first, *(line for line in lines if not line.startswith("from __future__ import"))])


def _between_prose(text: str, wanted: frozenset[str]) -> str:
    """A response without fences. The rest of a function (HumanEval) begins with a blank and stays as it is."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    if len(text) > MAX_PARSED:
        return text
    whole_text = Piece(text)
    if whole_text.tree is not None:
        return _assembled([whole_text], wanted)
    if first[:1] in (" ", "\t") or "\0" in text:  # a zero is nobody's prose; Python refuses the whole source
        return text
    pieces = [Piece(block.body) for block in unfenced(text, any_statement=not wanted)]
    whole = [piece for piece in map(_trimmed, pieces) if piece.tree is not None and piece.tree.body]
    if not whole or (wanted and not any(piece.defines & wanted for piece in whole)):
        return text
    return _assembled(whole, wanted)


def _trimmed(piece: Piece) -> Piece:
    """Without last lines that are no code; at most a few are tried."""
    lines = piece.source.splitlines(keepends=True)
    for _ in range(8):
        if piece.tree is not None or len(lines) < 2:
            break
        lines.pop()
        while lines and (not lines[-1].strip() or lines[-1][0] in " \t"):
            lines.pop()
        piece = Piece("".join(lines))
    return piece


def defines(code: str, name: str) -> bool:
    """Does the text bind `name` at top level (by its look; the code may not parse)?"""
    escaped = re.escape(name)
    return (
        re.search(rf"^(?:async[ \t]+def|def|class)[ \t]+{escaped}\b|^{escaped}[ \t]*[:=]", code, re.MULTILINE)
        is not None
    )


def complete(prompt: str, code: str, entry_point: str) -> str:
    """HumanEval style: a prompt ending in a function's docstring, and either its body or the whole function."""
    if not prompt:
        return code
    name = entry_point.partition(".")[0]  # of Solution.method the class
    if not defines(code, name):
        return prompt + code
    start = rf"^(?:(?:async[ \t]+)?def|class)[ \t]+{re.escape(name)}\b"
    head = re.split(start, prompt, maxsplit=1, flags=re.MULTILINE)[0]
    future = [line for line in code.splitlines() if line.startswith("from __future__ import")]
    if future:  # has to stay first
        code = "\n".join(line for line in code.splitlines() if not line.startswith("from __future__ import"))
        head = "\n".join(future) + "\n" + head
    return head + "\n" + code
