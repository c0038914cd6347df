"""Recorded guests: their traces, and the truth about their page tables that a model is held to.

Nothing here shares code with the modeled hardware or the modeled hypervisor: when the two sides
disagree about a translation, one of them is wrong for reasons of its own.
"""
