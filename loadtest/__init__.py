"""Asks from outside: talks bytes over sockets and imports nothing of ours."""
