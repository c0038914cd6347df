"""A laboratory for shadow-MMU concurrency: run, sample and exhaust the races of a hypervisor."""

__version__ = "0.1.0"
