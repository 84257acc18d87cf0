"""Token reduction as pure functions: which tokens stay, which are merged into which, and how they come back."""
