"""Runs inside the sandbox, behind an environment's source: plays a conversation from reset to its last action.

Two forms of class. With `step(action)`, it gets each of the student's turns as text. Without, as in TRL's
`environment_factory`, its public methods are tools, which the student calls in its model's form (`tool_calls.py`, whose
source comes along); a turn without a call ends the conversation, and what it earned is the attribute `reward`, where
there is one. Nothing that this file says is trusted by those who read it.
"""

from pathlib import Path

_READER = Path(__file__).with_name("tool_calls.py").read_text(encoding="utf-8")

PLAYER = '''

def rgopd_play(args, actions, seed, most, form="auto"):
    """[[text, done, reward] of each action]."""
    import random

    def environment():
        found = [v for k, v in list(globals().items()) if isinstance(v, type) and v.__module__ == __name__
                 and callable(getattr(v, "reset", None)) and not k.startswith("_")]
        found = [v for v in found if not any(v is not w and issubclass(w, v) for w in found)]  # no base of another
        named = [v for v in found if v.__name__ == "Environment"]
        if len(named or found) != 1:
            names = ", ".join(v.__name__ for v in found) or "none"
            raise TypeError("the file must hold one class with reset, or one named Environment; it has " + names)
        return (named or found)[0]

    def settled(value):
        if not hasattr(value, "cr_frame"):
            return value
        import asyncio

        return asyncio.run(value)

    def called(env, action):
        calls = reader["read_calls"](action, form)
        if not calls:
            return "", True, getattr(env, "reward", None)
        said = []
        for call in calls:
            if isinstance(call, str):
                said.append("error: " + call)
                continue
            try:
                said.append(str(use(env, *call)))
            except Exception as problem:
                said.append("error: %s: %s" % (type(problem).__name__, problem))
        return "\\n".join(said), bool(getattr(env, "done", False)), getattr(env, "reward", None)

    def use(env, name, given):
        known, kind = [n for n in dir(env) if n[:1] != "_" and n not in ("reset", "close")], type(env)
        tools = [n for n in known if callable(getattr(kind, n, None))]
        if name not in tools:
            raise NameError("no tool %r; there are %s" % (name, ", ".join(sorted(tools))))
        tool = getattr(env, name)
        wanted = getattr(tool, "__annotations__", {})
        return settled(tool(**{key: reader["typed"](value, wanted.get(key)) for key, value in given.items()}))

    def answered(env, action):
        if not callable(getattr(env, "step", None)):
            return called(env, action)
        said = settled(env.step(action))
        if said is None and not (hasattr(env, "done") or hasattr(env, "reward")):
            raise TypeError("step returned None: return what the student is to read")
        if said is None or isinstance(said, str):
            return said or "", getattr(env, "done", False), getattr(env, "reward", None)
        if isinstance(said, dict):
            return said.get("observation"), said.get("done", False), said.get("reward")
        if isinstance(said, tuple):
            if len(said) == 5:  # Gymnasium's: observation, reward, terminated, truncated, info
                return said[0], bool(said[2] or said[3]), said[1]
            if len(said) in (3, 4):
                return said[0], said[2], said[1]
            raise TypeError("step returned a tuple of %d: give (observation, reward, done)" % len(said))
        return getattr(said, "observation", said), getattr(said, "done", False), getattr(said, "reward", None)

    random.seed(seed)
    env = environment()()
    reader = {"__name__": "rgopd_tool_calls"}
    if not callable(getattr(env, "step", None)):
        exec(@READER@, reader)
    code = getattr(getattr(env.reset, "__func__", env.reset), "__code__", None)
    named = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if code is not None else ()
    if "seed" in named and "seed" not in args:  # inspect would say it too, and take longer to import than all of this
        args = {**args, "seed": seed}
    first = settled(env.reset(**args))
    if isinstance(first, tuple) and first:  # Gymnasium's: observation, info
        first = first[0]
    if isinstance(first, dict):
        first = first.get("observation")
    if isinstance(first, str) and first.strip():
        raise ValueError("reset returned a text, which the student has not read: put it into the prompt of the row")
    lines = []
    for action in actions:
        text, done, reward = answered(env, action)
        if isinstance(text, str) and len(text) > most:
            text = text[:most] + " [%d characters more]" % (len(text) - most)
        lines.append([text, done, reward])
    return lines
'''.replace("@READER@", repr(_READER))
