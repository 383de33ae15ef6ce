"""Lightning callbacks: one file per idea."""
