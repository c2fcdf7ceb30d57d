"""What is asked, and doing it."""
