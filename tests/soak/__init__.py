"""`make soak`: two workers under random faults for as long as wanted, with invariants checked all along."""
