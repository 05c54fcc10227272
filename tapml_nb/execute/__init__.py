"""Execute: run operators on the source and on the target, and say what came out."""
