"""x"""
from __future__ import annotations
from unisono.simulation.coordinator import Attempt, Coordinator

def attack(coordinator: Coordinator, moment: str, at: Attempt) -> None:
    """x"""
