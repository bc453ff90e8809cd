"""State handles: sessions that the application opens, and that models pass on by their ids."""
