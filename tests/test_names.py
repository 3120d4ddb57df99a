"""Which global names code uses: the same as `dis` finds."""

import argparse
import dis
import inspect
import subprocess
import typing
from types import CodeType

import pytest

from motorpool.names import names_in

MANY = [f"    name_{number}.attribute_{number}" for number in range(40_000)]
LONG_ARGUMENTS = "\n".join(["def function():", "    global last", *MANY, "    last = 1"])


def function_of(source: str) -> typing.Any:
    names: dict[str, typing.Any] = {}
    exec(source, names)
    return names["function"]


def code_in(code: CodeType) -> list[CodeType]:
    inner = [one for one in code.co_consts if isinstance(one, CodeType)]
    return [code, *(deeper for one in inner for deeper in code_in(one))]


def names_by_dis(code: CodeType) -> list[tuple[str, bool]]:
    kinds = {"LOAD_GLOBAL": False, "LOAD_NAME": False, "LOAD_FROM_DICT_OR_GLOBALS": False}
    kinds |= {"STORE_GLOBAL": True, "DELETE_GLOBAL": True}
    return [
        (instruction.argval, kinds[instruction.opname])
        for part in code_in(code)
        for instruction in dis.get_instructions(part)
        if instruction.opname in kinds
    ]


@pytest.mark.parametrize("module", [argparse, dis, inspect, subprocess, typing])
def test_names_that_functions_use_are_those_that_dis_finds(module: typing.Any) -> None:
    functions = [one for one in vars(module).values() if inspect.isfunction(one)]
    assert len(functions) > 2
    for function in functions:
        # Not those in what it wraps or closes over.
        if not function.__closure__ and not hasattr(function, "__wrapped__"):
            assert list(names_in(function)) == names_by_dis(function.__code__)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def function(): return one + two.three", [("one", False), ("two", False)]),
        ("def function():\n    global one\n    one = two", [("two", False), ("one", True)]),
        ("def function():\n    global one\n    del one", [("one", True)]),
        ("def function():\n    class Inner:\n        here = one", [("one", False)]),
        ("def function(one): return one.two", []),
        ("def function(): return lambda: one()", [("one", False)]),
    ],
)
def test_names_that_a_function_loads_and_sets(source: str, expected: list[typing.Any]) -> None:
    found = [one for one in names_in(function_of(source)) if one[0] != "__name__"]
    assert found == expected


def test_names_of_code_with_more_names_than_two_bytes_count() -> None:
    function = function_of(LONG_ARGUMENTS)
    assert list(names_in(function)) == names_by_dis(function.__code__)
    assert ("name_39999", False) in names_in(function)
    assert ("last", True) in names_in(function)
