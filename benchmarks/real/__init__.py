"""Models as they are deployed: real shapes, random weights, the whole way through a session."""
