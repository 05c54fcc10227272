"""Diagnoses that would be false, each beside one of its kind that is true."""
