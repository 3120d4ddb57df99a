"""Runs that several tests look at, each done once."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Protocol

import pytest

from .places import PLACES, Run

if TYPE_CHECKING:
    from .steps import Step


class RunOnce(Protocol):
    """Runs steps in a place, unless they already ran there."""

    def __call__(self, place: str, steps: tuple[Step, ...]) -> Run:
        """Return how the run went."""


@pytest.fixture(scope="session")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> RunOnce:
    """Run steps in a place, once for all the tests that ask for the same."""

    @functools.cache
    def run(place: str, steps: tuple[Step, ...]) -> Run:
        return PLACES[place](steps, tmp_path_factory.mktemp(place))

    return run
