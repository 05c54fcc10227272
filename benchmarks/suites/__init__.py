"""Two peer suites taken through sessions, and what their own comparison says of every verdict."""
