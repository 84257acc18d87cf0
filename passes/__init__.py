"""Passes, one file each: ``passes/fold_batch_norm.py`` holds `FoldBatchNorm` and is ``fold-batch-norm`` in a pipeline.

Files that start with an underscore hold rules that passes share; they are no passes.
"""

EXACT = (
    "fold-constants",
    "common-subexpressions",
    "canonicalize",
    "remove-noops",
    "fold-batch-norm",
    "absorb-affine",
    "merge-linears",
    "dead-code",
)
"""The exact passes, in the order in which one prepares the next; repeated until none finds a site.

Constants first, so that weights computed in the graph are weights to every rule; batch norm before other affine
factors, because it absorbs them too; layers are merged when their weights are final.
"""
