"""Phases and their changes: tables, routes and populations, counted from sampled paths."""

from bayeshmm.phases.tables import (
    boundary_entry_steps,
    containing_phase,
    edge_usage,
    entry_times,
    modal_path,
    occupied_states,
    state_occupancy,
    transition_times,
)

__all__ = [
    "boundary_entry_steps",
    "containing_phase",
    "edge_usage",
    "entry_times",
    "modal_path",
    "occupied_states",
    "state_occupancy",
    "transition_times",
]
