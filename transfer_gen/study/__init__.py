"""Several runs: comparisons with controls, costs, and the search for a strategy."""
