"""Where vectors come from; `open_source` chooses by what it is given."""
