"""How qualifications come in: feed (bytes to typed rows), bulk (whole files), delta (single calls)."""
