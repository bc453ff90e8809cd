"""The pages of an operator, on an address of their own."""
