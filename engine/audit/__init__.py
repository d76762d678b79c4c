"""The audit log: an append-only Merkle log of every answer, its checkpoints, receipts and witnesses."""
