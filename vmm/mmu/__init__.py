"""What KVM does: the shadow MMU of the January 2007 series, as it stood in 2.6.25.

Each protocol is written in small named steps, so that a bug is a short override of one of them.
Nothing in here knows the vCPU run loop: flushes are asked for through ``mmu.api``.
"""
