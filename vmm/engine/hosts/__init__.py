"""Hosts: what drives a run. A host's own order of doing things can never matter."""
