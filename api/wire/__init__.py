"""One file a wire format: bytes in, bytes out, no I/O."""
