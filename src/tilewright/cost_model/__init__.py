"""The place of the learned scheduler. Until it is there, `transforms.heuristic` schedules; the
compiler takes either as a parameter."""
