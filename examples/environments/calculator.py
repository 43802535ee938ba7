"""A calculator as a tool: rows name it, and the verifier's setting `environments` says where it is.

The student writes `<tool_call>{"name": "calculate", "arguments": {"expression": "17*23"}}</tool_call>` and hears the
value; a turn without a call ends the conversation, and the row's own check judges it.
"""

import ast
import operator

_OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


class Calculator:
    """Arithmetic without names, calls or powers: whatever is asked, it answers at once."""

    def reset(self, **row):
        """It remembers nothing."""

    def calculate(self, expression: str) -> str:
        """Work out an arithmetic expression of numbers, + - * / // % and brackets."""
        if len(expression) > 200:
            raise ValueError("at most 200 characters")
        return str(self._value(ast.parse(expression.strip(), mode="eval").body))

    def _value(self, node):
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            return _OPERATIONS[type(node.op)](self._value(node.left), self._value(node.right))
        if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATIONS:
            return _OPERATIONS[type(node.op)](self._value(node.operand))
        raise ValueError("numbers, + - * / // % and brackets only")
