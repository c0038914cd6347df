"""The kill matrix: every bug is found in its scenario, and gone with its fix.

``plan`` says what is to be searched, ``work`` searches it, on several processes, ``rows`` puts
the answers together, and ``tables`` writes them down.
"""
