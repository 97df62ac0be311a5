"""Preferences of people over pairs of real edits, made ready for GCPO (paper section 3)."""
