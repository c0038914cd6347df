"""What silicon does: memory, paging-structure walks, TLBs, interrupt delivery. Nothing of KVM."""
