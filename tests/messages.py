"""The messages that mmatm and its tools stop or warn with, read from their source."""

import ast
from collections.abc import Iterator
from pathlib import Path

from commands import ROOT

GAP = '…'  # where a message names a value


def messages() -> Iterator[tuple[str, str]]:
    """``(file:line, message)`` of all that is raised, exited or warned with."""
    for folder in ('mmatm', 'tools'):
        for file in sorted((ROOT / folder).rglob('*.py')):
            yield from _messages_of(file)


def _messages_of(file: Path) -> Iterator[tuple[str, str]]:
    tree = ast.parse(file.read_text())
    functions = {f.name: f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)}
    for node in ast.walk(tree):
        for text in _texts(_said_by(node), functions):
            if len(text.replace(GAP, '').strip()) > 3:  # else it repeats another's message
                yield f'{file.relative_to(ROOT)}:{node.lineno}', text


def _said_by(node: ast.AST) -> ast.AST | None:
    """What a statement says to the user, if it is one that does."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        return node.exc.args[0] if node.exc.args else None
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ('sys.exit', 'warnings.warn'):
        return node.args[0]
    return node.value if isinstance(node, ast.Yield) else None


def _texts(node: ast.AST | None, functions: dict[str, ast.FunctionDef]) -> Iterator[str]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        function = functions.get(node.func.id)
        for inner in ast.walk(function) if function else ():
            if isinstance(inner, ast.Return):
                yield from _texts(inner.value, {})
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from _texts(value, functions)
    elif isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp)):
        yield ' '.join(_template(node).split())


def _template(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return ''.join(map(_template, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _template(node.left) + _template(node.right)
    return GAP
