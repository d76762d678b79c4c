"""One file a group of routes: decode, verify, encode."""
