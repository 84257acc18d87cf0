"""The planner: which passes with which settings reach a latency within a budget on a target."""
