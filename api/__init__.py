"""How the engine is reached, by HTTP and by command; no rule lives here."""
