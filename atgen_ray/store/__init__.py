"""What outlives a process: the database with journal and ledger, and each run's folder."""
