"""What both sides of a target share: requests, answers, errors, the handshake, tensors."""
