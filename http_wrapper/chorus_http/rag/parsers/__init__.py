"""One module for each kind of file. They run in a limited child process and import nothing of Chorus but values."""
