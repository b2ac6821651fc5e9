"""What a finished map can be asked: its rows, and the neighbors of each."""
