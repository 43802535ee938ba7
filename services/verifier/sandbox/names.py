"""What the names that tests use mean in a program: its own, and the forms that coding sites expect.

`class Solution` with a method instead of a function, and the other way round; a new object for each call, as those
sites do; `ListNode` and `TreeNode` made from lists and turned into lists again where annotations say so.
"""

from __future__ import annotations

import builtins
from collections import deque
from collections.abc import Iterable
from typing import Any

_NODES = """
class ListNode:
    def __init__(self, val=0, next=None):
        self.val = val
        self.next = next
class TreeNode:
    def __init__(self, val=0, left=None, right=None):
        self.val = val
        self.left = left
        self.right = right
"""
_PROVIDED = "__provided__"
_MOST_NODES = 1_000_000
_TYPING = ("List", "Dict", "Set", "Tuple", "Optional", "Union", "Callable", "Iterable", "Iterator", "Deque")
_STARRED = ("typing", "collections", "math", "heapq", "bisect", "itertools", "functools", "string", "re", "random")
_MODULES = (*_STARRED, "copy", "datetime", "statistics", "sys")
_NAMED = {"deepcopy": "copy", "timedelta": "datetime", "mean": "statistics", "median": "statistics", "maxsize": "sys"}


def lookup(namespace: dict[str, Any], wanted: str) -> Any:
    """The object that a name or dotted name stands for.

    Raises:
        NameError: the program has nothing by that name.
    """
    head, _, rest = wanted.partition(".")
    holder = namespace.get("Solution")
    if head in namespace and head not in namespace.get(_PROVIDED, ()):
        found = namespace[head]
    elif isinstance(holder, type) and not rest and hasattr(holder, head):
        found, rest = holder, head
    elif head == "Solution" and rest in namespace:
        return namespace[rest]
    else:
        raise NameError(f"name {head!r} is not defined by the program")
    for part in filter(None, rest.split(".")):
        found = _method(found, part) if isinstance(found, type) else getattr(found, part)
    return found


def _method(holder: type, name: str) -> Any:
    """A method as a function: every call is one of a new object."""
    function = getattr(holder, name)
    if not callable(function):
        return getattr(holder(), name)

    def method(*args: Any, **kwargs: Any) -> Any:
        return getattr(holder(), name)(*args, **kwargs)

    method.__name__, method.__doc__ = name, function.__doc__
    method.__dict__.update(__wrapped__=function)
    return method


def provide(code: Any, program: str, namespace: dict[str, Any]) -> None:
    """What coding sites import for every answer, where the program uses it without importing it.

    Args:
        code: the compiled program.
    """
    is_solution = "class Solution" in program
    if not is_solution and ("typing" in program or not any(f"{name}[" in program for name in _TYPING)):
        return
    missing = _names(code) - namespace.keys() - set(dir(builtins))
    provide_nodes(missing, namespace)
    missing -= namespace.keys()
    provided: dict[str, Any] = {}
    for name in missing:
        module = _NAMED.get(name, name if name in _MODULES else "") if is_solution else ""
        if module:
            made = __import__(module)
            provided[name] = made if module == name else getattr(made, name)
    for module in _STARRED if is_solution else ("typing",):
        made = __import__(module)
        public = getattr(made, "__all__", None) or [name for name in vars(made) if not name.startswith("_")]
        for name in missing.intersection(public) - provided.keys():
            provided[name] = getattr(made, name)
    namespace.update(provided)
    namespace[_PROVIDED] = frozenset(provided)


def provide_nodes(wanted: Iterable[str], namespace: dict[str, Any]) -> None:
    """LeetCode's classes, where nobody defines them."""
    lacking = {"ListNode", "TreeNode"}.intersection(wanted) - namespace.keys()
    if lacking:
        nodes: dict[str, Any] = {"__name__": namespace["__name__"]}
        exec(_NODES, nodes)
        namespace.update({name: nodes[name] for name in lacking})


def _names(code: Any) -> set[str]:
    """Global names that a program reads, functions included, without those that it binds at the top."""
    read, todo = set[str](), [code]
    while todo:
        part = todo.pop()
        read.update(part.co_names)
        todo += [constant for constant in part.co_consts if hasattr(constant, "co_names")]
    return read


def derived(name: str, bases: tuple[type, ...], body: dict[str, Any], keywords: dict[str, Any]) -> type:
    """A class that the tests derive from the program's; its methods are the tests'.

    Args:
        body: name -> (kind, value); kind "method", "static", "class", "property" or "value".
        keywords: of the class statement.
    """
    made = {key: made_part(kind, value) for key, (kind, value) in body.items()}
    return type(bases[0])(name, bases, made, **keywords)


def made_part(kind: str, value: Any) -> Any:
    """What a class of the tests holds, as a class of the program's can hold it."""
    if kind == "property":
        return property(*(None if part is None else bound(part) for part in value))
    if kind == "static":
        return staticmethod(value)
    bind = kind in ("method", "class")
    return (classmethod(bound(value)) if kind == "class" else bound(value)) if bind else value


def parts_of(kind: type) -> list[tuple[str, str, Any]]:
    """What a class holds: (name, "static", "class", "property" or "value", the value or its functions)."""
    found: list[tuple[str, str, Any]] = []
    for name, value in vars(kind).items():
        if type(value) in (staticmethod, classmethod):
            found.append((name, "static" if type(value) is staticmethod else "class", value.__func__))
        elif type(value) is property:
            found.append((name, "property", (value.fget, value.fset, value.fdel, value.__doc__)))
        else:
            found.append((name, "value", value))
    return found


def fields_of(kind: type) -> list[tuple[str, Any, tuple[Any, ...], list[Any]]]:
    """Of a dataclass: name, type, default in a tuple that is empty without one, and flags, for each field."""
    import dataclasses

    flags = ("init", "repr", "hash", "compare", "kw_only")
    return [
        (
            field.name,
            field.type,
            () if field.default is dataclasses.MISSING else (field.default,),
            [getattr(field, flag) for flag in flags],
        )
        for field in dataclasses.fields(kind)
    ]


def bound(function: Any) -> Any:
    """A function, so that instances bind it: a stand-in is none."""

    def method(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return method


# --- lists and nodes


def converted(function: Any, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any], bool]:
    """Arguments with lists made nodes where the annotations say so, and whether the result is to be made a list."""
    function = getattr(function, "__wrapped__", function)
    annotations = {name: str(kind) for name, kind in getattr(function, "__annotations__", {}).items()}
    if not any("ListNode" in kind or "TreeNode" in kind for kind in annotations.values()):
        return args, kwargs, False
    space = getattr(function, "__globals__", {})
    if space:  # an annotation in quotes reads no name
        provide_nodes([n for n in ("ListNode", "TreeNode") if any(n in kind for kind in annotations.values())], space)
    code = getattr(function, "__code__", None)
    names = list(code.co_varnames[: code.co_argcount]) if code is not None else []
    if names[:1] == ["self"]:
        names = names[1:]
    names += [""] * len(args)
    args = [_nodes(a, annotations.get(names[index], ""), space) for index, a in enumerate(args)]
    kwargs = {name: _nodes(a, annotations.get(name, ""), space) for name, a in kwargs.items()}
    return args, kwargs, "Node" in annotations.get("return", "")


def _nodes(value: Any, annotation: str, space: dict[str, Any]) -> Any:
    if type(value) is not list or "Node" not in annotation:
        return value
    if ("List[" in annotation or "list[" in annotation) and all(type(x) is list or x is None for x in value):
        return [_nodes(x or [], annotation.replace("ist[", ""), space) for x in value]
    if "ListNode" in annotation:
        return _linked(value, space["ListNode"])
    return _tree(value, space["TreeNode"])


def _linked(values: list[Any], node: Any) -> Any:
    head = None
    for value in reversed(values):
        made = node(value)
        made.next = head
        head = made
    return head


def _tree(values: list[Any], node: Any) -> Any:
    """From LeetCode's form: level by level, None where there is no node, none below those."""
    if not values or values[0] is None:
        return None
    root = node(values[0])
    waiting, rest = deque([root]), iter(values[1:])
    for value in rest:
        parent = waiting.popleft()
        for side, child in (("left", value), ("right", next(rest, None))):
            made = None if child is None else node(child)
            setattr(parent, side, made)
            if made is not None:
                waiting.append(made)
        if not waiting:
            break
    return root


def listed(value: Any, as_node: bool = True) -> Any:
    """A result with nodes made lists again. A list that goes round is not followed for ever."""
    kind = type(value).__name__
    if value is None:
        return [] if as_node else None
    if kind == "ListNode":
        found: list[Any] = []
        while value is not None and len(found) < _MOST_NODES:
            found.append(value.val)
            value = value.next
        return found
    if kind == "TreeNode":
        return _levels(value)
    if type(value) in (list, tuple):
        return [listed(x, as_node) if x is None or type(x).__name__ in ("ListNode", "TreeNode") else x for x in value]
    return value


def _levels(root: Any) -> list[Any]:
    found: list[Any] = []
    waiting = deque([root])
    while waiting and len(found) < _MOST_NODES:
        node = waiting.popleft()
        found.append(None if node is None else node.val)
        if node is not None:
            waiting += (node.left, node.right)
    while found and found[-1] is None:
        found.pop()
    return found
