"""Secure aggregation put to the test: seeded random schedules of faults and attacks, and a ledger of what an adversary learns."""
