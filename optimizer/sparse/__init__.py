"""N:M sparsity: which weights stay, what the others become, how they are stored, and where it can pay."""
