"""Finds every use of TensorRT in source text, by the annotations and assignments there, and compares it with a list."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.backends.tensorrt_reference import Kinds, Signature, lookup

MODULE = "module"
_OUTSIDE = {"__version__"}
"""Of the module itself; the list holds classes only."""


@dataclass(frozen=True)
class Type:
    """What is known of a value: ``kind`` is "module", "class", "instance", "method" or "own"."""

    kind: str
    name: str = ""
    signatures: tuple[Signature, ...] = ()


@dataclass
class Uses:
    """The uses in some files.

    Attributes:
        good: "Class.attribute" of each use that the list has.
        bad: what it lacks, with file and line.
    """

    kinds: Kinds
    own: dict[str, dict[str, Type]] = field(default_factory=dict)
    good: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


def uses(sources: dict[str, str], kinds: Kinds) -> Uses:
    found = Uses(kinds)
    trees = {name: ast.parse(text) for name, text in sources.items()}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                found.own[node.name] = {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                _gather(found, node)
    for name, tree in trees.items():
        _Reader(found, name).block(tree.body, {})
    return found


def _gather(found: Uses, node: ast.ClassDef) -> None:
    """Attributes of one of our own classes that hold values of TensorRT, or of our own classes."""
    for item in ast.walk(node):
        if isinstance(item, ast.AnnAssign):
            target = item.target
            attribute = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
            known = annotated(found, item.annotation)
            if known is not None:
                found.own[node.name][attribute] = known
        elif isinstance(item, ast.FunctionDef) and item.name == "__init__":
            _from_arguments(found, node.name, item)


def _from_arguments(found: Uses, name: str, init: ast.FunctionDef) -> None:
    """``self.trt, self.kept = trt, kept``."""
    given = {arg.arg: annotated(found, arg.annotation) for arg in init.args.args if arg.annotation is not None}
    for statement in ast.walk(init):
        if not isinstance(statement, ast.Assign):
            continue
        target, value = statement.targets[0], statement.value
        pairs = zip(target.elts, value.elts, strict=True) if isinstance(target, ast.Tuple) and isinstance(
            value, ast.Tuple
        ) else [(target, value)]  # fmt: skip
        for left, right in pairs:
            if isinstance(left, ast.Attribute) and isinstance(right, ast.Name) and given.get(right.id) is not None:
                found.own[name][left.attr] = given[right.id]  # type: ignore[assignment]


def annotated(found: Uses, annotation: ast.expr | None) -> Type | None:
    """The type that an annotation names, if it is one of TensorRT's or ours."""
    if isinstance(annotation, ast.BinOp):
        return annotated(found, annotation.left)
    text = getattr(annotation, "id", "")
    if isinstance(annotation, ast.Attribute) and getattr(annotation.value, "id", "") == "api":
        text = annotation.attr
    text = str(annotation.value) if isinstance(annotation, ast.Constant) else text
    if text == "Trt":
        return Type(MODULE)
    if text in found.own and text not in found.kinds:
        return Type("own", text)
    return Type("instance", text) if text in found.kinds else None


class _Reader:
    def __init__(self, found: Uses, file: str) -> None:
        self.found, self.file = found, file

    def block(self, statements: Iterable[ast.stmt], outer: dict[str, Type]) -> None:
        scope = dict(outer)
        for statement in statements:
            self.statement(statement, scope)

    def statement(self, node: ast.stmt, scope: dict[str, Type]) -> None:
        if isinstance(node, ast.Import):
            scope.update({alias.asname or alias.name: Type(MODULE) for alias in node.names if alias.name == "tensorrt"})
        elif isinstance(node, ast.FunctionDef):
            inner = dict(scope)
            for arg in (*node.args.args, *node.args.kwonlyargs):
                known = annotated(self.found, arg.annotation)
                inner.pop(arg.arg, None)
                if known is not None:
                    inner[arg.arg] = known
            if node.args.args and node.args.args[0].arg == "self" and "self" in scope:
                inner["self"] = scope["self"]
            self.block(node.body, inner)
        elif isinstance(node, ast.ClassDef):
            for base in node.bases:
                self.value(base, scope)
            inner = {**scope, "self": Type("own", node.name)}
            self.block(node.body, inner)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            self.assign(node, scope)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.stmt):
                    self.statement(child, scope)
                else:
                    self.inside(child, scope)

    def inside(self, node: ast.AST, scope: dict[str, Type]) -> None:
        if isinstance(node, ast.expr):
            self.value(node, scope)
            return
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt):
                self.statement(child, scope)
            else:
                self.inside(child, scope)

    def assign(self, node: ast.Assign | ast.AnnAssign, scope: dict[str, Type]) -> None:
        made = self.value(node.value, scope) if node.value is not None else None
        if isinstance(node, ast.AnnAssign):
            made = annotated(self.found, node.annotation) or made
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Name):
                scope.pop(target.id, None)
                if made is not None:
                    scope[target.id] = made
            else:
                self.inside(target, scope)

    def value(self, node: ast.expr, scope: dict[str, Type]) -> Type | None:
        if isinstance(node, ast.Name):
            return scope.get(node.id)
        if isinstance(node, ast.Attribute):
            return self.attribute(node, scope)
        if isinstance(node, ast.Call):
            return self.call(node, scope)
        if isinstance(node, ast.Lambda):
            return self.value(node.body, scope)
        for child in ast.iter_child_nodes(node):
            self.inside(child, scope)
        return None

    def attribute(self, node: ast.Attribute, scope: dict[str, Type]) -> Type | None:
        base = self.value(node.value, scope)
        if base is None:
            if "_" in node.attr.strip("_") and any(node.attr in kind.methods for kind in self.found.kinds.values()):
                self.bad(node, f"{node.attr} on a value of unknown type: annotate it")
            return None
        if base.kind == "own":
            return self.found.own[base.name].get(node.attr)
        if base.kind == MODULE:
            if node.attr in _OUTSIDE:
                return None
            return self.known(node, node.attr in self.found.kinds, node.attr, Type("class", node.attr))
        found = lookup(self.found.kinds, base.name, node.attr)
        made = None
        if found is not None and found[0] == "method":
            made = Type("method", f"{base.name}.{node.attr}", tuple(found[1]))  # type: ignore[arg-type]
        elif found is not None and found[1] in self.found.kinds and found[0] == "attribute":
            made = Type("instance", str(found[1]))
        return self.known(node, found is not None, f"{base.name}.{node.attr}", made)

    def call(self, node: ast.Call, scope: dict[str, Type]) -> Type | None:
        function = self.value(node.func, scope)
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.value(argument, scope)
        if function is None or function.kind not in ("class", "method"):
            return None
        signatures = function.signatures
        if function.kind == "class":
            found = lookup(self.found.kinds, function.name, "__init__")
            signatures = tuple(found[1]) if found is not None else ()  # type: ignore[arg-type]
        keywords = [keyword.arg for keyword in node.keywords if keyword.arg is not None]
        args = [argument for argument in node.args if getattr(argument, "id", "") != "self"]
        objections = [signature.objection(len(args), keywords) for signature in signatures]
        self.known(node, not objections or "" in objections, f"{function.name}()", None, "; ".join(objections))
        if function.kind == "class":
            return Type("instance", function.name)
        returns = next((item.returns for item, why in zip(signatures, objections, strict=True) if not why), "")
        return Type("instance", returns) if returns in self.found.kinds else None

    def known(self, node: ast.expr, is_good: bool, what: str, made: Type | None, why: str = "") -> Type | None:
        if is_good:
            self.found.good.append(what)
        else:
            self.bad(node, f"{what} is not in TensorRT's list {why}")
        return made

    def bad(self, node: ast.expr, what: str) -> None:
        self.found.bad.append(f"{self.file}:{node.lineno}: {what}")
