"""Decides who runs what next. Pure: no clock, thread, pipe or pickle in here."""

from motorpool.scheduler.chunking import BUDGET_SECONDS
from motorpool.scheduler.machine import Scheduler
from motorpool.scheduler.state import Cost

__all__ = ["BUDGET_SECONDS", "Cost", "Scheduler"]
