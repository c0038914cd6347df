"""Pytest plugin of vmm; registered as the entry point `pytest11: vmm`."""
