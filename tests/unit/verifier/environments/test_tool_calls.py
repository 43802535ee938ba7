"""Tool calls in the forms of the common model families: each read, each malformed one told, nothing raised."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rgopd.common.tool_forms import Calls, form_of
from rgopd.verifier.environments.tool_calls import FORMS, Loose, read_calls, typed

B, E = "<\uff5ctool\u2581call\u2581begin\uff5c>", "<\uff5ctool\u2581call\u2581end\uff5c>"
S = "<\uff5ctool\u2581sep\uff5c>"
ALL = "<\uff5ctool\u2581calls\u2581begin\uff5c>"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text("ab\"'\\{}[]();,:=\n \té漢", max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=2),
    max_leaves=4,
)
EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
ARGUMENTS = st.dictionaries(st.sampled_from(["a", "b", "expression"]), VALUES, max_size=3)


def written(form: str, name: str, arguments: dict[str, Any]) -> list[str]:
    """A call as models of each family write it."""
    said = json.dumps(arguments, ensure_ascii=False)
    call = json.dumps({"name": name, "arguments": arguments})
    if form == "pythonic":
        inside = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        return [f"[{name}({inside})]", f"<|tool_call_start|>[{name}({inside})]<|tool_call_end|>"]
    return {
        "hermes": [f"<tool_call>{call}</tool_call>", f"Let me see.\n<tool_call>\n{call}\n</tool_call>"],
        "mistral": [f"[TOOL_CALLS][{call}]", f"[TOOL_CALLS]{name}{said}", f"[TOOL_CALLS] {name}[ARGS]{said}"],
        "llama": [
            json.dumps({"name": name, "parameters": arguments}),
            f"<|python_tag|>{json.dumps({'type': 'function', 'name': name, 'parameters': arguments})}",
        ],
        "deepseek": [
            f"{ALL}{B}{name}{S}{said}{E}",
            f"so: {ALL}{B}function{S}{name}\n```json\n{json.dumps(arguments)}\n```{E}",
        ],
    }[form]


@pytest.mark.parametrize("form", [form for form in FORMS if form != "xml"])
@EXAMPLES
@given(arguments=ARGUMENTS, name=st.sampled_from(["add", "get_weather", "a.b-c"]))
def test_what_is_written_is_read(form: str, name: str, arguments: dict[str, Any]) -> None:
    name = name if form != "pythonic" else "add"
    for text in written(form, name, arguments):
        assert read_calls(text, form) == [(name, arguments)], text
        assert read_calls(text, "auto") == [(name, arguments)], text


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\n<function=add>\n<parameter=a>\n2\n</parameter>\n<parameter=b>\nx y\n</parameter>\n"
        "</function>\n</tool_call>",
        "<function=add><parameter=a>2</parameter><parameter=b>x y</parameter></function>",
        "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>2</arg_value>\n"
        "<arg_key>b</arg_key>\n<arg_value>x y</arg_value>\n</tool_call>",
        "<tool_call>add<arg_key>a</arg_key><arg_value>2</arg_value>"
        "<arg_key>b</arg_key><arg_value>x y</arg_value></tool_call>",
    ],
)
def test_xml_arguments_are_text_until_the_tool_says_what_it_wants(text: str) -> None:
    for form in ("auto", "xml", "hermes") if "<tool_call>" in text else ("auto", "xml"):
        ((name, arguments),) = read_calls(text, form)
        assert (name, arguments) == ("add", {"a": "2", "b": "x y"})
        assert typed(arguments["a"], int) == 2
        assert typed(arguments["a"], None) == 2
        for wanted in (str, "str", "str | None", str | None):
            assert typed(arguments["a"], wanted) == "2"
        assert type(typed(arguments["b"], int)) is str
    assert typed(Loose("[1, 2]"), list[str]) == [1, 2]
    assert typed(Loose("True"), bool) is True
    assert typed("2", int) == "2", "a quoted argument stays what it is"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('<tool_call>{"name": "add"', "not JSON"),
        ("<tool_call>{}</tool_call>", '"name"'),
        ('<tool_call>{"name": "add", "arguments": [1]}</tool_call>', "names and values"),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", "nested too deeply"),
        ("<tool_call><function=add><parameter=a>1</function></tool_call>", "not closed"),
        ("<function=>", "no name of a tool"),
        ("[TOOL_CALLS]", "not JSON"),
        ("[TOOL_CALLS]add{", "not JSON"),
        ("[TOOL_CALLS][1]", '"name"'),
        ('<|python_tag|>{"name": "add", ', "not JSON"),
        ("<|python_tag|>print(1", "not Python"),
        ("<|python_tag|>hello", "JSON"),
        ('{"name": "add", "parameters": {', "not JSON"),
        ("[add(1)]", "names its arguments"),
        ("[add(a=b)]", "numbers, texts"),
        ("[add(**{})]", "names its arguments"),
        (f"{ALL}add", "stands between"),
        (f"{ALL}{B}add{E}", "stands"),
        (f"{B}add{S}{{{E}", "not JSON"),
    ],
)
def test_a_call_that_cannot_be_read_says_why(text: str, says: str) -> None:
    (said,) = read_calls(text)
    assert isinstance(said, str)
    assert says in said


@pytest.mark.parametrize(
    "text",
    [
        "",
        "391",
        "\\boxed{391}",
        '{"answer": 3}',
        "[1, 2]",
        "def add(a, b): return [f(a)]",
        'It is {"name": "Bob"}.',
        '<think><tool_call>{"name": "add"}</tool_call></think>391',
    ],
)
def test_an_answer_is_no_call(text: str) -> None:
    assert read_calls(text) == []


@EXAMPLES
@given(
    st.lists(
        st.sampled_from(
            ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", B, E, S, ALL, "<function=", "f", "(", ")"]
            + ["[", "]", "{", "}", '"name"', ":", ",", "<parameter=a>", "</parameter>", "<arg_key>", "</think>"]
            + ["1", "a=", "<|tool_call_start|>", "<function_calls>", "\n", "```", "\\", "\x00", "\ud800", "é"]
        ),
        max_size=12,
    ).map("".join),
    st.sampled_from(["auto", *FORMS]),
)
def test_nothing_raises(text: str, form: str) -> None:
    for said in read_calls(text, form):
        assert isinstance(said, str) or (isinstance(said[0], str) and isinstance(said[1], dict))


def test_several_calls_in_one_turn() -> None:
    one = '{"name": "f", "arguments": {}}'
    for text in (
        f"<tool_call>{one}</tool_call>\n<tool_call>{one}</tool_call>",
        f"[TOOL_CALLS][{one}, {one}]",
        "[TOOL_CALLS]f{}[TOOL_CALLS]f{}",
        f"<|python_tag|>{one}; {one}",
        "[f(), f()]",
        f"{ALL}{B}f{S}{{}}{E}{B}f{S}{{}}{E}",
        "<function=f></function><function=f></function>",
    ):
        assert read_calls(text) == [("f", {}), ("f", {})], text


def test_the_template_says_which() -> None:
    assert set(get_args(Calls)) == {"auto", *FORMS}
    for marker, form in (
        ("[TOOL_CALLS]", "mistral"),
        ("<tool_call>\n{", "hermes"),
        ("<tool_call>\n<function=x>", "xml"),
        ("<tool_call>{name}<arg_key>", "xml"),
        ("<|python_tag|>", "llama"),
        (ALL, "deepseek"),
        ("", "auto"),
    ):
        assert form_of("{{ bos }}" + marker) == form
    assert form_of(None) == "auto"
    assert form_of({"default": "", "tool_use": "<tool_call>"}) == "hermes"
