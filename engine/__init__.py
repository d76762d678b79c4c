"""The product: decides who is insured, importable without a web server; synchronous; deterministic given a clock."""
