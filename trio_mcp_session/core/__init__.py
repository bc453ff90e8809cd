"""Pure vocabulary of the library: values and tables, no trio and no input or output."""
