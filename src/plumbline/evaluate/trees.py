"""Programs as trees and as flows of data, by tree-sitter (the extra `code`).

A flow is what CodeBLEU compares: "this variable was computed from those", and "here a variable is read that got its
value above". Names do not count, so variables are numbered in the order in which flows mention them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

from plumbline.errors import MissingExtra, UserError

Flow = tuple[str, str, tuple[str, ...]]
"""A variable, how it gets its value, and from which."""


class Language(NamedTuple):
    """What we know of a language: its grammar's package, its keywords, and the kinds of node that move data."""

    grammar: str
    keywords: frozenset[str]
    sets: dict[str, tuple[str, str]]
    """Kinds that set a variable: the fields of what is set and of what it is set to."""
    parameters: frozenset[str]
    """Kinds that bring a variable in without a value."""


PYTHON_WORDS = """
    False None True and as assert async await break class continue def del elif else except finally for from
    global if import in is lambda nonlocal not or pass raise return try while with yield
"""
JAVA_WORDS = """
    abstract assert boolean break byte case catch char class const continue default do double else enum
    extends final finally float for goto if implements import instanceof int interface long native new package
    private protected public return short static strictfp super switch synchronized this throw throws
    transient try void volatile while
"""
CSHARP_WORDS = """
    abstract as base bool break byte case catch char checked class const continue decimal default delegate do
    double else enum event explicit extern false finally fixed float for foreach goto if implicit in int
    interface internal is lock long namespace new null object operator out override params private protected
    public readonly ref return sbyte sealed short sizeof stackalloc static string struct switch this throw
    true try typeof uint ulong unchecked unsafe ushort using virtual void volatile while
"""

LANGUAGES = {
    "python": Language(
        "tree_sitter_python",
        frozenset(PYTHON_WORDS.split()),
        {
            "assignment": ("left", "right"),
            "augmented_assignment": ("left", "right"),
            "named_expression": ("name", "value"),
            "for_statement": ("left", "right"),
            "for_in_clause": ("left", "right"),
            "default_parameter": ("name", "value"),
        },
        frozenset({"parameters", "typed_parameter", "lambda_parameters"}),
    ),
    "java": Language(
        "tree_sitter_java",
        frozenset(JAVA_WORDS.split()),
        {
            "variable_declarator": ("name", "value"),
            "assignment_expression": ("left", "right"),
            "enhanced_for_statement": ("name", "value"),
        },
        frozenset({"formal_parameter"}),
    ),
    "c_sharp": Language(
        "tree_sitter_c_sharp",
        frozenset(CSHARP_WORDS.split()),
        {
            "variable_declarator": ("name", "value"),
            "assignment_expression": ("left", "right"),
            "foreach_statement": ("left", "right"),
        },
        frozenset({"parameter"}),
    ),
}
NAMES = frozenset({"identifier"})
NO_VARIABLE = {
    "method_invocation": "name",
    "method_declaration": "name",
    "constructor_declaration": "name",
    "class_declaration": "name",
    "function_definition": "name",
    "class_definition": "name",
    "field_access": "field",
    "attribute": "attribute",
    "member_access_expression": "name",
    "keyword_argument": "name",
    "parameter": "type",
    "variable_declaration": "type",
    "object_creation_expression": "type",
}
"""Kinds of which a field is an identifier that names no variable."""


def language_of(name: str) -> Language:
    if name not in LANGUAGES:
        raise UserError(f"there is no grammar of {name!r} here: take one of {', '.join(LANGUAGES)}")
    return LANGUAGES[name]


@lru_cache(maxsize=len(LANGUAGES))
def parser_of(name: str) -> Any:
    package = language_of(name).grammar
    try:
        tree_sitter, grammar = import_module("tree_sitter"), import_module(package)
    except ImportError:
        raise MissingExtra("code", f"the tree of a program in {name}") from None
    return tree_sitter.Parser(tree_sitter.Language(grammar.language()))


def parse_program(text: str, language: str) -> Any:
    """The root of the program's tree. A program that does not parse has a tree too, with errors in it."""
    return parser_of(language).parse(text.encode()).root_node


def subtrees(root: Any) -> Iterator[str]:
    """Every subtree with something in it, as the kinds of its named nodes in brackets."""
    if root.children and root.type != "comment":
        yield str(root)
        for child in root.children:
            yield from subtrees(child)


def flows(root: Any, language: str) -> list[Flow]:
    """The program's flows in order, the variables numbered."""
    known: set[bytes] = set()
    found: list[tuple[bytes, str, tuple[bytes, ...]]] = []
    of = language_of(language)

    def read(node: Any) -> list[bytes]:
        """The variables that are read in a node; each that has a value is a flow."""
        names = [name for name in variables(node)]
        found.extend((name, "comes from", (name,)) for name in names if name in known)
        return names

    def walk(node: Any) -> None:
        if node.type in of.sets:
            left, right = (node.child_by_field_name(field) for field in of.sets[node.type])
            rest = [child for child in node.children if child.is_named and child not in (left, right)]
            if right is None and left is not None:  # C# gives a declarator's value no name
                values = [child for child in rest if child.type not in NAMES]
                right, rest = (values[0] if values else None), []
            sources = tuple(dict.fromkeys(read(right))) if right is not None else ()
            for target in variables(left) if left is not None else ():
                found.append((target, "computed from", sources))
                known.add(target)
            for child in rest:
                walk(child)
        elif node.type in of.parameters:
            known.update(variables(node))
        elif node.children:
            for child in seen(node):
                walk(child)
        elif node.type in NAMES:
            read(node)

    walk(root)
    return numbered(found)


def variables(node: Any) -> list[bytes]:
    """The names of variables below a node, in order."""
    if not node.children:
        return [node.text] if node.type in NAMES else []
    return [name for child in seen(node) for name in variables(child)]


def seen(node: Any) -> list[Any]:
    """The node's children, without those that name no variable."""
    field = NO_VARIABLE.get(node.type)
    hidden = node.child_by_field_name(field) if field else None
    return [child for child in node.children if hidden is None or child.id != hidden.id]


def numbered(found: list[tuple[bytes, str, tuple[bytes, ...]]]) -> list[Flow]:
    """Names replaced by their place in the order of appearance."""
    number: dict[bytes, str] = {}
    for target, _, sources in found:
        for name in (*sources, target):
            number.setdefault(name, f"v{len(number)}")
    return [(number[target], how, tuple(number[name] for name in sources)) for target, how, sources in found]
