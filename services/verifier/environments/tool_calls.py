"""Tool calls out of a student's turn, in the forms that chat templates of today teach.

Standard library alone: the player carries this file's source into the sandbox, where students' text belongs.

A call that begins and cannot be read is an error with the reason in it, for the student to hear; never an exception.
"""

import ast
import json
import re
from typing import Any

FORMS = ("hermes", "xml", "mistral", "llama", "pythonic", "deepseek")
"""`auto`: whichever of these a turn is written in."""

_BEGIN, _END = "<\uff5ctool\u2581call\u2581begin\uff5c>", "<\uff5ctool\u2581call\u2581end\uff5c>"
_SEP, _ALL = "<\uff5ctool\u2581sep\uff5c>", "<\uff5ctool\u2581calls\u2581begin\uff5c>"
_NAME = r"[A-Za-z_][\w.-]*"


Call = tuple[str, dict[str, Any]]
"""Its name and its arguments."""


class NoCall(Exception):
    """A call that begins and cannot be read; says what is wrong."""


def read_calls(text: str, form: str = "auto") -> "list[Call | str]":
    """The calls of a turn, in order: (name, arguments) of each, or the reason why it is none, as text.

    Args:
        text: the turn, with the markers of calls in it.
        form: one of FORMS, or "auto".
    """
    text = text.rpartition("</think>")[2]  # what it thought of calling it has not called
    for name in FORMS if form == "auto" else (form,):
        found = _READERS[name](text)
        if found:
            return found
    return []


def _caught(read: Any, *given: Any) -> "Call | str":
    try:
        said: Call = read(*given)
        return said
    except NoCall as problem:
        return str(problem)
    except RecursionError:
        return "this call is nested too deeply"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as problem:
        raise NoCall(f"this call is not JSON: {problem}") from None


def _object(said: Any) -> Call:
    """{"name": ..., "arguments" or "parameters": {...}}, or OpenAI's form around it."""
    if isinstance(said, dict) and isinstance(said.get("function"), dict):
        said = said["function"]
    if not isinstance(said, dict) or not isinstance(said.get("name"), str):
        raise NoCall('a call is an object {"name": ..., "arguments": {...}}')
    return said["name"], _arguments(said.get("arguments", said.get("parameters", {})))


def _arguments(given: Any) -> "dict[str, Any]":
    given = _json(given or "{}") if isinstance(given, str) else given
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise NoCall("a call's arguments are an object of names and values")
    return given


def _tagged(text: str) -> "list[str]":
    """What stands in <tool_call> tags; one that is not closed goes on to the next or to the end."""
    return [part.partition("</tool_call>")[0].strip() for part in text.split("<tool_call>")[1:]]


def _hermes(text: str) -> "list[Call | str]":
    return [_caught(_xml_or_object, inside) for inside in _tagged(text)]


def _xml_or_object(inside: str) -> Call:
    if inside.startswith("<function=") or "<arg_key>" in inside:
        return _xml_call(inside)
    if re.fullmatch(_NAME, inside):  # GLM's call without arguments
        return inside, {}
    return _object(_json(inside))


def _xml(text: str) -> "list[Call | str]":
    """Qwen3-Coder's <function=f><parameter=a>1</parameter></function>; GLM's arg_key and arg_value, in tags."""
    if "<tool_call>" in text:
        return _hermes(text)
    return [_caught(_xml_call, "<function=" + part) for part in text.split("<function=")[1:]]


def _xml_call(inside: str) -> Call:
    if inside.startswith("<function="):
        name, _, rest = inside[len("<function=") :].partition(">")
        rest = rest.partition("</function>")[0]
        pairs = re.findall(r"<parameter=([^>]*)>(.*?)</parameter>", rest, re.DOTALL)
        left = re.sub(r"<parameter=[^>]*>.*?</parameter>", "", rest, flags=re.DOTALL)
    else:
        name, _, rest = inside.partition("<arg_key>")
        rest = _ + rest
        pair = r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>"
        pairs, left = re.findall(pair, rest, re.DOTALL), re.sub(pair, "", rest, flags=re.DOTALL)
    if not re.fullmatch(_NAME, name.strip()):
        raise NoCall(f"{name.strip()[:60]!r} is no name of a tool")
    if left.strip():
        raise NoCall(f"a parameter of this call is not closed: {left.strip()[:60]!r}")
    return name.strip(), {key.strip(): Loose(value.strip("\n")) for key, value in pairs}


class Loose(str):
    """An argument that was written without quotes: `typed` says what it is where the tool wants no text."""

    __slots__ = ()


def typed(value: Any, wanted: Any) -> Any:
    """An argument as the tool wants it: text stays text where the annotation `wanted` is str; else JSON is read."""
    if not isinstance(value, Loose):
        return value
    if re.match(r"(typing\.)?(Optional\[)?str\b|<class 'str'>", str(wanted)):
        return str(value)
    text = str(value).strip()
    words = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return str(value)


def _mistral(text: str) -> "list[Call | str]":
    """[TOOL_CALLS][{...}, ...], or [TOOL_CALLS]f{...} and [TOOL_CALLS]f[ARGS]{...} of newer tokenizers."""
    found = []
    for part in text.split("[TOOL_CALLS]")[1:]:
        part = part.strip()
        named = re.match(rf"({_NAME})\s*(?:\[CALL_ID\][^\[\s]*)?\s*(?:\[ARGS\])?\s*(?=\{{)", part)
        if named:
            found.append(_caught(lambda n, rest: (n, _arguments(_first(rest))), named.group(1), part[named.end() :]))
        else:
            found += _listed(part)
    return found


def _first(text: str) -> Any:
    """The JSON value that a text begins with; what follows it is talk."""
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except ValueError as problem:
        raise NoCall(f"this call is not JSON: {problem}") from None


def _listed(text: str) -> "list[Call | str]":
    try:
        said = _first(text)
    except (NoCall, RecursionError) as problem:
        return [str(problem)]
    return [_caught(_object, each) for each in (said if isinstance(said, list) else [said])]


def _llama(text: str) -> "list[Call | str]":
    """<|python_tag|>{"name": ..., "parameters": {...}}, more of them behind semicolons; the tag may be missing."""
    tag, rest = "<|python_tag|>" in text, text.rpartition("<|python_tag|>")[2].strip()
    if rest.startswith("{") or (tag and rest.startswith("[{")):
        if not tag and not ('"name"' in rest and ('"parameters"' in rest or '"arguments"' in rest)):
            return []  # without the tag a brace may be anything
        found: list[Call | str] = []
        while rest.startswith(("{", "[")):
            try:
                said, end = json.JSONDecoder().raw_decode(rest)
            except (ValueError, RecursionError) as problem:
                return [*found, f"this call is not JSON: {problem}"]
            found += [_caught(_object, each) for each in (said if isinstance(said, list) else [said])]
            rest = rest[end:].lstrip(" ;,\n")
        return found
    built_in = re.match(rf"({_NAME})\.call\(", rest) if tag else None
    if built_in:  # Llama's brave_search.call(query="...")
        return _python(built_in.group(1) + rest[built_in.end() - 1 :])
    if tag:
        return _python(rest) if re.match(rf"\[?\s*{_NAME}\(", rest) else ["behind <|python_tag|> a call is JSON"]
    return []


def _pythonic(text: str) -> "list[Call | str]":
    """[f(a=1), g(b="x")], between markers or the whole of the turn: brackets in prose are none."""
    if "<|tool_call_start|>" in text:
        return _python(text.partition("<|tool_call_start|>")[2].partition("<|tool_call_end|>")[0].strip())
    inside = text.strip()
    if "<function_calls>" in inside:
        inside = inside.partition("<function_calls>")[2].partition("</function_calls>")[0].strip()
        return [said for line in inside.splitlines() if line.strip() for said in _python(line.strip())]
    if not re.match(rf"\[\s*{_NAME}\(", inside) or not inside.endswith(")]"):
        return []
    return _python(inside)


def _python(text: str) -> "list[Call | str]":
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        return ["this call is not Python: %s" % (getattr(problem, "msg", None) or problem)]
    return [_caught(_python_call, node) for node in (tree.elts if isinstance(tree, (ast.List, ast.Tuple)) else [tree])]


def _python_call(node: ast.AST) -> Call:
    if not isinstance(node, ast.Call) or not isinstance(node.func, (ast.Name, ast.Attribute)):
        raise NoCall("a call is written name(argument=value)")
    if node.args or any(key.arg is None for key in node.keywords):
        raise NoCall("a call names its arguments: name(argument=value)")
    name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
    try:
        return name, {str(key.arg): ast.literal_eval(key.value) for key in node.keywords}
    except (ValueError, TypeError, SyntaxError, MemoryError):
        raise NoCall("arguments of a call are numbers, texts, lists and the like") from None


def _deepseek(text: str) -> "list[Call | str]":
    """Begin marker, name, separator, JSON, end marker; in R1 and V3 the name follows `function` and JSON is fenced."""
    if _BEGIN not in text:
        return [f"a call stands between {_BEGIN} and {_END}"] if _ALL in text else []
    return [_caught(_deepseek_call, part.partition(_END)[0].strip()) for part in text.split(_BEGIN)[1:]]


def _deepseek_call(inside: str) -> Call:
    name, sep, rest = inside.partition(_SEP)
    if not sep:
        raise NoCall(f"between a call's name and its arguments stands {_SEP}")
    if "```" in rest:
        name, _, rest = rest.partition("```")
        rest = re.sub(r"^json\b", "", rest).partition("```")[0]
    return name.strip(), _arguments(_json(rest.strip() or "{}"))


_READERS = {
    "hermes": _hermes,
    "xml": _xml,
    "mistral": _mistral,
    "llama": _llama,
    "pythonic": _pythonic,
    "deepseek": _deepseek,
}
