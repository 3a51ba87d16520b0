"""What comes in from others and goes out to them: published results, harness files, the Hub."""
