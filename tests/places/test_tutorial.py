"""The tutorial, as printed, in every place and under every start method."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

import pytest

from .places import PLACES
from .steps import start_method
from .tutorial import TUTORIAL

if TYPE_CHECKING:
    from .conftest import RunOnce
    from .places import Run
    from .steps import Step

QUICK = {("script", "spawn"), ("command", "fork")}


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(
            (place, method),
            id=f"{place}-{method}",
            marks=[pytest.mark.quick] if (place, method) in QUICK else [],
        )
        for place in PLACES
        for method in multiprocessing.get_all_start_methods()
    ],
)
def finished(request: pytest.FixtureRequest, run_once: RunOnce) -> Run:
    """The four snippets, run in one place under one start method."""
    place, method = request.param
    return run_once(place, (start_method(method), *TUTORIAL))


@pytest.mark.parametrize("step", TUTORIAL, ids=lambda step: step.name)
def test_snippet_prints_what_the_tutorial_says(finished: Run, step: Step) -> None:
    """A snippet of the tutorial prints what is printed below it."""
    assert step.output_in(finished.stdout) == step.printed, str(finished)


def test_tutorial_ends_cleanly(finished: Run) -> None:
    """The program ends by itself, with exit code 0, and complains about nothing."""
    assert finished.is_clean, str(finished)
