"""Searches over learned automata. Knows nothing of memory management or KVM."""
