"""What is minimised beside or in place of the next token."""
