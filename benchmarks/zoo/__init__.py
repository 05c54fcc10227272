"""The zoo: more than a hundred architectures, small, structurally true, with random weights."""
