"""Decides who runs what next. Pure: no clock, thread, pipe or pickle in here."""

from motorpool.scheduler.chunking import BUDGET_SECONDS, Cost
from motorpool.scheduler.machine import Scheduler

__all__ = ["BUDGET_SECONDS", "Cost", "Scheduler"]
