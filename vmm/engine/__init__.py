"""Tasks, cells and ops: deterministic concurrency that can be run, replayed and searched.

Knows nothing of memory management or KVM; it could be a library of its own.
"""
