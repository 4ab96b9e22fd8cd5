"""Values and decisions: standard library only; no await, no clock, no environment, no log."""
