"""What can be asked of closeloop, once, for every door: a function for each question or command."""
