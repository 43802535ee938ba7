"""Values of the packages that code under test may import: arrays, tables, graphs; copied as such and kept in step.

Each is made by its own class from checked plain parts. What a package has beyond these stays where it is.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

from rgopd.verifier.sandbox import plain, symbols

Each = Callable[[Any], Any]
"""Encodes or decodes a part."""

_PLAIN = "biufc"
_GRAPHS = ("Graph", "DiGraph", "MultiGraph", "MultiDiGraph")
_TABLES = {"DataFrame": "pf", "Series": "ps"}


def kind_of(kind: type) -> str:
    """The tag of exactly one of these classes, '' for any other."""
    owner, name = kind.__module__.partition(".")[0] if type(kind.__module__) is str else "", kind.__name__
    if owner == "numpy":
        return "na" if name == "ndarray" else "nt" if name in ("datetime64", "timedelta64") else ""
    if owner == "networkx":
        return "ng" if name in _GRAPHS else ""
    if owner == "sympy" and symbols.is_symbolic(kind):
        return "sy"
    if owner != "pandas":
        return ""
    if name in ("Timestamp", "Timedelta", "NaTType", "NAType"):
        return "pt"
    return _TABLES.get(name) or ("px" if name.endswith("Index") and getattr(_pandas(), name, None) is kind else "")


def is_mutable(kind: type) -> bool:
    """One that can be changed in place."""
    return kind_of(kind) in ("na", "pf", "ps", "ng")


def encode(value: Any, each: Each) -> dict[str, Any] | None:
    """The plain form; None: not one of these, or one that holds what has none."""
    tag = kind_of(type(value))
    try:
        return {tag: _ENCODERS[tag](value, each)} if tag else None
    except (ValueError, AttributeError) as problem:
        if isinstance(problem, plain.NotPlain):
            raise
        return None


def class_of(module: str, name: str) -> type | None:
    """One of these classes by name, where its package is imported."""
    owner = sys.modules.get(module.partition(".")[0])
    found = getattr(owner, name, None)
    return found if isinstance(found, type) and kind_of(found) and found.__module__ == module else None


def _numpy() -> Any:
    import numpy

    return numpy


def _pandas() -> Any:
    return sys.modules.get("pandas") or __import__("pandas")


# --- numpy


def _encode_array(value: Any, each: Each) -> list[Any]:
    kind, shape = value.dtype.kind, list(value.shape)
    if kind in "mM":
        return [value.dtype.str, shape, [int(n) for n in value.reshape(-1).view("i8")]]
    if kind == "V" and value.dtype.names:
        return [value.dtype.descr, shape, [_encode_array(value[name], each) for name in value.dtype.names]]
    if kind == "V":
        raise ValueError("an array without a plain form")
    return [value.dtype.str, shape, [each(x) for x in value.reshape(-1).tolist()]]


def _decode_array(body: Any, each: Each) -> Any:
    numpy = _numpy()
    dtype, shape, parts = body
    sizes = [int(n) for n in shape]
    if isinstance(dtype, list):
        made = empty("na", body)
        for (name, *_), part in zip(dtype, parts, strict=True):
            made[name] = _decode_array(part, each)
        return made
    kind = numpy.dtype(str(dtype))
    if kind.kind not in f"{_PLAIN}SUOMm" or kind.itemsize > 1 << 16:
        raise ValueError("no array")
    values = [each(x) for x in parts]
    if kind.kind == "O":
        made = numpy.empty(_checked([len(values)], len(values)), object)
        for index, part in enumerate(values):
            made[index] = part
    else:
        made = numpy.array(values, "i8").view(kind) if kind.kind in "mM" else numpy.array(values, kind)
    return made.reshape(_checked(sizes, len(values)))


def _field(form: Any) -> tuple[str, str]:
    name, dtype = form
    if _numpy().dtype(str(dtype)).kind not in f"{_PLAIN}SU":
        raise ValueError("no array")
    return str(name), str(dtype)


def _checked(sizes: list[int], count: int) -> list[int]:
    if math.prod(sizes) != count:
        raise ValueError("an array of another size")
    return sizes


def _decode_moment(body: Any, each: Each) -> Any:
    return _decode_array([body[0], [1], [body[1]]], each)[0]


# --- pandas


def _encode_values(value: Any, each: Each) -> list[Any]:
    """The values of a column or an index, with what their kind is called."""
    dtype, name = value.dtype, type(value.dtype).__name__
    if name == "CategoricalDtype":
        categories = _encode_values(dtype.categories, each)
        return ["category", [int(code) for code in _codes(value)], categories, bool(dtype.ordered)]
    if name == "DatetimeTZDtype":
        plain = value.dt if hasattr(value, "dt") else value
        return ["zone", _encode_array(plain.tz_convert(None).to_numpy(), each), str(dtype.tz), dtype.unit]
    if hasattr(dtype, "kind") and type(dtype).__module__.startswith("numpy"):
        return ["numpy", _encode_array(value.to_numpy(), each)]
    return ["as", str(dtype), [each(None if x is _pandas().NA else x) for x in value.tolist()]]


def _codes(value: Any) -> Any:
    return value.cat.codes if hasattr(value, "cat") else value.codes


def _decode_values(body: Any, each: Each) -> Any:
    pandas = _pandas()
    how, first, *rest = body
    if how == "numpy":
        return _decode_array(first, each)
    if how == "zone":
        times = pandas.DatetimeIndex(_decode_array(first, each)).as_unit(str(rest[1]))
        return times.tz_localize("UTC").tz_convert(str(rest[0]))
    if how == "category":
        categories = pandas.Index(_decode_values(rest[0], each))
        return pandas.Categorical.from_codes([int(code) for code in first], categories, ordered=bool(rest[1]))
    return pandas.array([each(x) for x in rest[0]], dtype=str(first))


def _encode_index(value: Any, each: Each) -> list[Any]:
    name = type(value).__name__
    names = [each(n) for n in value.names]
    if name == "RangeIndex":
        return [name, names, [value.start, value.stop, value.step]]
    if name == "MultiIndex":
        return [name, names, [each(x) for x in value.tolist()]]
    return ["Index", names, _encode_values(value, each)]


def _decode_index(body: Any, each: Each) -> Any:
    pandas = _pandas()
    kind, names, parts = body
    labels = [each(n) for n in names]
    if kind == "RangeIndex":
        return pandas.RangeIndex(*(int(n) for n in parts), name=labels[0])
    if kind == "MultiIndex":
        return pandas.MultiIndex.from_tuples([each(x) for x in parts], names=labels)
    return pandas.Index(_decode_values(parts, each), name=labels[0])


def _encode_frame(value: Any, each: Each) -> list[Any]:
    columns = [_encode_values(value.iloc[:, at], each) for at in range(value.shape[1])]
    return [_encode_index(value.columns, each), _encode_index(value.index, each), columns]


def _decode_frame(body: Any, each: Each) -> Any:
    names, index = _decode_index(body[0], each), _decode_index(body[1], each)
    columns = {at: _decode_values(part, each) for at, part in enumerate(body[2])}
    made = _pandas().DataFrame(columns, index=index, columns=range(len(columns)))
    made.columns = names
    return made


def _encode_series(value: Any, each: Each) -> list[Any]:
    return [each(value.name), _encode_index(value.index, each), _encode_values(value, each)]


def _decode_series(body: Any, each: Each) -> Any:
    return _pandas().Series(_decode_values(body[2], each), index=_decode_index(body[1], each), name=each(body[0]))


def _encode_time(value: Any, each: Each) -> list[Any]:
    name = type(value).__name__
    if name in ("NaTType", "NAType"):
        return [name]
    if name == "Timedelta":
        return [name, int(value.as_unit("ns").value), value.unit]
    return [name, int(value.as_unit("ns").value), value.unit, None if value.tz is None else str(value.tz)]


def _decode_time(body: Any, _: Each) -> Any:
    pandas = _pandas()
    kind, *parts = body
    if kind in ("NaTType", "NAType"):
        return pandas.NaT if kind == "NaTType" else pandas.NA
    if kind == "Timedelta":
        return pandas.Timedelta(int(parts[0]), unit="ns").as_unit(str(parts[1]))
    made = pandas.Timestamp(int(parts[0]), unit="ns").as_unit(str(parts[1]))
    return made if parts[2] is None else made.tz_localize("UTC").tz_convert(str(parts[2]))


# --- networkx


def _encode_graph(value: Any, each: Each) -> list[Any]:
    nodes = [[each(node), _pairs(data, each)] for node, data in value.nodes(data=True)]
    edges = value.edges(keys=True, data=True) if value.is_multigraph() else value.edges(data=True)
    lines = [[[each(x) for x in ends], _pairs(data, each)] for *ends, data in edges]
    return [type(value).__name__, _pairs(value.graph, each), nodes, lines]


def _pairs(data: Any, each: Each) -> list[Any]:
    return [[each(k), each(v)] for k, v in data.items()]


def _table(pairs: Any, each: Each) -> dict[Any, Any]:
    return {each(k): each(v) for k, v in pairs}


def _decode_graph(body: Any, each: Each) -> Any:
    name, about, nodes, edges = body
    if name not in _GRAPHS:
        raise ValueError("no graph")
    made = getattr(__import__("networkx"), name)()
    made.graph.update(_table(about, each))
    made.add_nodes_from((each(node), _table(data, each)) for node, data in nodes)
    made.add_edges_from((*(each(x) for x in ends), _table(data, each)) for ends, data in edges)
    return made


_ENCODERS: dict[str, Callable[[Any, Each], list[Any]]] = {
    "na": _encode_array,
    "nt": lambda v, each: [v.dtype.str, int(v.view("i8"))],
    "pf": _encode_frame,
    "ps": _encode_series,
    "px": _encode_index,
    "pt": _encode_time,
    "ng": _encode_graph,
    "sy": symbols.encode,
}
DECODERS: dict[str, Callable[[Any, Each], Any]] = {
    "na": _decode_array,
    "nt": _decode_moment,
    "pf": _decode_frame,
    "ps": _decode_series,
    "px": _decode_index,
    "pt": _decode_time,
    "ng": _decode_graph,
    "sy": symbols.decode,
}

# --- in step


def empty(tag: str, body: Any) -> Any:
    """One to be filled, so that others can refer to it."""
    if tag == "na":
        dtype, shape, parts = body
        sizes = [int(n) for n in shape]
        if isinstance(dtype, list):
            return _numpy().empty(_checked(sizes, len(parts[0][2])), [_field(form) for form in dtype])
        return _numpy().empty(_checked(sizes, len(parts)), str(dtype))
    if tag == "ng":
        return getattr(__import__("networkx"), body[0] if body[0] in _GRAPHS else "Graph")()
    return _pandas().DataFrame() if tag == "pf" else _pandas().Series(dtype=object)


def parts(value: Any) -> tuple[bytes, list[Any]]:
    """What it holds: as bytes what can be, the rest by identity."""
    tag = kind_of(type(value))
    if tag == "na":
        return _parts_of_array(value)
    if tag == "ng":
        held = [x for node, data in value.nodes(data=True) for x in (node, *data.keys(), *data.values())]
        return repr(value.graph).encode(), held + [
            x for edge in value.edges(data=True) for x in (*edge[:2], *edge[2].values())
        ]
    columns = [value] if tag == "ps" else [value.iloc[:, at] for at in range(value.shape[1])]
    named = repr([value.name] if tag == "ps" else list(value.columns))
    said, held = [named.encode()], list[Any]()
    for column in (value.index, *columns):
        bytes_, objects = _parts_of_array(column.to_numpy())
        said.append(str(column.dtype).encode() + bytes_)
        held += objects
    return b"|".join(said), held


def _parts_of_array(value: Any) -> tuple[bytes, list[Any]]:
    about = f"{value.dtype.str}{value.shape}".encode()
    return (about, value.reshape(-1).tolist()) if value.dtype.kind == "O" else (about + value.tobytes(), [])


def replace(value: Any, new: Any) -> None:
    """Make one hold what another holds."""
    tag = kind_of(type(value))
    if tag == "na":
        value[...] = new
    elif tag == "ng":
        value.clear()
        value.graph.update(new.graph)
        value.update(new)
    else:
        value._update_inplace(new)
        if tag == "ps":
            value.name = new.name
